//! Plans in the log.

use std::fmt::{Display, Formatter};

use cnm::Plan;

/// How many steps of a plan are logged.
const BRIEF: usize = 100;

/// The beginning of a plan, for the log: thousands of ports say little.
pub(super) struct Brief<'a>(pub(super) &'a Plan);

impl Display for Brief<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let steps = self.0.steps();
        steps.iter().take(BRIEF).try_for_each(|step| writeln!(f, "{step}"))?;
        if steps.len() > BRIEF { writeln!(f, "and {} more", steps.len() - BRIEF) } else { Ok(()) }
    }
}
