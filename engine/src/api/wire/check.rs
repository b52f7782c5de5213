//! `GET /rnet/cluster/check`: what was found out about the ways to other hosts.

use drivers::kernel::echo::Answer;
use serde_json::{Value, json};

use crate::cluster::{Finding, Outcome, Stage};

/// What was found out about one way.
pub fn finding(finding: &Finding) -> Value {
    let stages = finding.stages.iter().map(|(stage, size, outcome)| {
        json!({"Stage": name(*stage), "Bytes": size, "Answer": answer(outcome)})
    });
    let trouble = finding.trouble.as_ref().map(
        |trouble| json!({"Stage": name(trouble.stage), "Says": trouble.says, "Mend": trouble.mend}),
    );
    let (network, container) = finding.asked.clone().unzip();
    json!({
        "ID": finding.node.id, "Name": finding.node.name, "Address": finding.node.address,
        "Network": network, "Container": container,
        "Stages": stages.collect::<Vec<_>>(), "Trouble": trouble,
    })
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Encryption => "encryption",
        Stage::Host => "host",
        Stage::HostLarge => "host, large",
        Stage::Tunnel => "tunnel",
        Stage::Computed => "tunnel, checksum computed",
        Stage::Absent => "tunnel, no checksum",
        Stage::TunnelLarge => "tunnel, large",
    }
}

fn answer(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Asked(Answer::Came) => "came".to_owned(),
        Outcome::Asked(Answer::Silence) => "silence".to_owned(),
        Outcome::Asked(Answer::TooLarge) => "too large".to_owned(),
        Outcome::Refused(why) => why.clone(),
    }
}
