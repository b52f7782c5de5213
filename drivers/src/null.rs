//! The `null` driver, of the network `none`: a namespace with its loopback and nothing else.

use cnm::State;

/// The network is nothing.
pub(crate) fn network() -> State {
    State::default()
}

/// To join it adds nothing to the sandbox's namespace.
pub(crate) fn endpoint() -> State {
    State::default()
}
