//! What containers write, as records of their log: all of it is read again, and records that are none are
//! left out.
#![no_main]

use engine::container::log_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = log_line(bytes);
    let attributes = [("a\"".to_owned(), String::from_utf8_lossy(bytes).into_owned())].into();
    let records = shim::log_records(bytes, &attributes);
    let mut read = Vec::new();
    for record in records.split(|byte| *byte == b'\n').filter(|record| !record.is_empty()) {
        let line = log_line(record).expect("a record");
        assert_eq!(line.stream, 1);
        read.extend_from_slice(&line.bytes);
    }
    assert!(bytes.is_empty() || records.ends_with(b"\n"));
    // Of bytes that are no text it is kept where they were.
    if std::str::from_utf8(bytes).is_ok() {
        assert_eq!(read, bytes);
    } else {
        assert!(!read.is_empty());
    }
});
