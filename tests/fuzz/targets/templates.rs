//! Go templates of `--format`, over any document: they are shown or refused in words, the same each time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|text: &str| {
    let (template, document) = text.split_once('\n').unwrap_or((text, ""));
    let usual = json!({
        "Id": "0123456789ab", "Names": ["/web"], "State": {"Running": true, "Pid": 7},
        "Labels": {"a": "b"}, "Ports": null, "Size": 1.5,
    });
    let document: Value = serde_json::from_str(document).unwrap_or(usual);
    let shown = engine::cli::show(template, &document);
    assert!(
        shown.as_ref().is_ok_and(|_| true) || shown.as_ref().is_err_and(|said| !said.is_empty())
    );
    assert_eq!(engine::cli::show(template, &document), shown);
});
