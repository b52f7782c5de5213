//! Names of interfaces and objects, as users write them: none that is taken may be one that the kernel
//! refuses or that leads out of a directory.
#![no_main]

use cnm::LinkName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<LinkName>() {
        assert_eq!(name.as_str(), text);
        assert!((1..=15).contains(&text.len()) && text != "." && text != "..");
        assert!(!text.contains(['/', ':', '\0']) && !text.contains(char::is_whitespace));
        let json = serde_json::to_string(&name).expect("a name is JSON");
        assert_eq!(serde_json::from_str::<LinkName>(&json).ok(), Some(name));
    }
    if cnm::name::check_network(text).is_ok() {
        assert!(!text.trim().is_empty());
    }
});
