//! Build arguments: who may see which, and where its value is from.

use std::collections::{BTreeMap, BTreeSet};

/// What needs no `ARG`, and is told neither to the cache nor to the history.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The build arguments, as one stage has them.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// What the user gave; without a value it is as if it were not given.
    given: BTreeMap<String, Option<String>>,
    /// What the builder knows of itself: `TARGETPLATFORM` and its kin.
    known: BTreeMap<String, String>,
    /// `ARG` before the first `FROM`.
    global: BTreeMap<String, Option<String>>,
    /// `ARG` of this stage.
    declared: BTreeMap<String, Option<String>>,
}

impl Args {
    /// Those of a build.
    pub fn new(given: BTreeMap<String, Option<String>>, known: BTreeMap<String, String>) -> Self {
        Self { given, known, ..Self::default() }
    }

    /// `ARG` before the first `FROM`.
    pub fn declare_global(&mut self, name: &str, default: Option<String>) {
        self.global.insert(name.to_owned(), default);
    }

    /// `ARG` of a stage.
    pub fn declare(&mut self, name: &str, default: Option<String>) {
        self.declared.insert(name.to_owned(), default);
    }

    /// The names of all that were declared.
    pub fn names(&self) -> BTreeSet<String> {
        self.global.keys().chain(self.declared.keys()).cloned().collect()
    }

    /// The value of a name in `FROM` and in `ARG` before it.
    pub fn global_value(&self, name: &str) -> Option<String> {
        if let Some(default) = self.global.get(name) {
            return self.value(name, default.as_ref());
        }
        let proxy = PROXIES.contains(&name).then(|| self.value(name, None)).flatten();
        proxy.or_else(|| self.known.get(name).cloned())
    }

    /// What steps of the stage see, but for what is in their environment already.
    pub fn visible(&self, environment: &[String]) -> BTreeMap<String, String> {
        let mut visible = BTreeMap::new();
        let names = environment.iter().filter_map(|entry| entry.split('=').next());
        let hidden: BTreeSet<&str> = names.collect();
        let proxies = PROXIES.iter().map(|name| ((*name).to_owned(), &None));
        let declared = self.declared.iter().map(|(name, default)| (name.clone(), default));
        for (name, default) in proxies.chain(declared) {
            if hidden.contains(name.as_str()) {
                continue;
            }
            if let Some(value) = self.value(&name, default.as_ref()) {
                visible.insert(name, value);
            }
        }
        visible
    }

    /// Of what is visible, what belongs to the history, as `|2 A=1 B=2` before a command; nothing if
    /// there is none.
    pub fn prefix(&self, visible: &BTreeMap<String, String>) -> Vec<String> {
        let told = |name: &str| self.declared.contains_key(name) || !PROXIES.contains(&name);
        let told: Vec<_> = visible
            .iter()
            .filter(|(name, _)| told(name))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if told.is_empty() { told } else { [vec![format!("|{}", told.len())], told].concat() }
    }

    /// The names that were given and that nobody declared.
    pub fn unused(&self, declared: &BTreeSet<String>) -> Vec<&str> {
        let unused =
            |name: &&String| !declared.contains(*name) && !PROXIES.contains(&name.as_str());
        self.given.keys().filter(unused).map(String::as_str).collect()
    }

    fn value(&self, name: &str, default: Option<&String>) -> Option<String> {
        let given = self.given.get(name).cloned().flatten();
        let global = || self.global.get(name).cloned().flatten();
        given.or_else(|| default.cloned()).or_else(global).or_else(|| self.known.get(name).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        let given =
            [("A", Some("given")), ("HTTP_PROXY", Some("p")), ("X", Some("x")), ("N", None)];
        let given = given.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).into();
        Args::new(given, [("TARGETARCH".to_owned(), "amd64".to_owned())].into())
    }

    #[test]
    fn a_stage_sees_what_it_declares_and_proxies() {
        let mut args = args();
        args.declare_global("G", Some("global".to_owned()));
        assert_eq!(args.visible(&[]).keys().collect::<Vec<_>>(), ["HTTP_PROXY"]);
        args.declare("A", Some("default".to_owned()));
        args.declare("G", None);
        args.declare("N", Some("n".to_owned()));
        args.declare("TARGETARCH", None);
        args.declare("UNSET", None);
        let visible = args.visible(&["HTTP_PROXY=e".to_owned()]);
        let visible: Vec<_> = visible.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(visible, ["A=given", "G=global", "N=n", "TARGETARCH=amd64"]);
    }

    #[test]
    fn proxies_are_told_to_nobody_unless_they_are_declared() {
        let mut args = args();
        args.declare("A", None);
        assert_eq!(args.prefix(&args.visible(&[])), ["|1", "A=given"]);
        args.declare("HTTP_PROXY", None);
        assert_eq!(args.prefix(&args.visible(&[])), ["|2", "A=given", "HTTP_PROXY=p"]);
    }

    #[test]
    fn what_nobody_declares_is_unused() {
        let mut args = args();
        args.declare("A", None);
        assert_eq!(args.unused(&args.names()), ["N", "X"]);
    }

    #[test]
    fn from_sees_what_is_declared_before_it() {
        let mut args = args();
        assert_eq!(args.global_value("A"), None);
        args.declare_global("A", None);
        assert_eq!(args.global_value("A").as_deref(), Some("given"));
        assert_eq!(args.global_value("TARGETARCH").as_deref(), Some("amd64"));
    }
}
