//! Network drivers, which decide, and the kernel they decide about, which acts.

pub mod kernel;

use cnm::sandbox::Attachment;
use cnm::{Network, PlanError, Planner, Sandbox, State};

/// All drivers, behind the model's one [`Planner`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Drivers;

impl Planner for Drivers {
    fn network(&self, network: &Network) -> Result<State, PlanError> {
        todo!("{network:?}")
    }

    fn sandbox(
        &self,
        sandbox: &Sandbox,
        attachments: &[Attachment<'_>],
    ) -> Result<State, PlanError> {
        todo!("{sandbox:?} {attachments:?}")
    }
}
