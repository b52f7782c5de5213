//! What a command ends with when it did not work.

/// A message for the user and the exit code of the process.
#[derive(Debug)]
pub(crate) struct CliError {
    /// Shown on standard error unless empty.
    pub(crate) message: String,
    /// The exit code.
    pub(crate) code: u8,
    /// The HTTP status of the daemon's answer, if there was one.
    pub(crate) status: Option<u16>,
}

impl CliError {
    /// An error that ends the process with 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1, status: None }
    }

    /// The same with another exit code.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// An answer of the daemon that is an error.
    pub(crate) fn answered(status: u16, message: &str) -> Self {
        Self {
            message: format!("Error response from daemon: {message}"),
            code: 1,
            status: Some(status),
        }
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}
