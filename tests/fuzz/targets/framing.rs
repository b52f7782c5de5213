//! Streams: frames of a container's output as a client takes them apart, and requests as they arrive in
//! pieces.
//!
//! The first byte says how long the pieces are.
#![no_main]

use engine::api::logs::frame;
use engine::api::transport::passed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let size = usize::from(*size).max(1);
    // Whatever comes from a daemon, nothing is made up.
    let (out, err, done) = engine::cli::unframed(bytes);
    assert!(out.len() + err.len() <= bytes.len());
    assert!(done.is_ok() || done.is_err_and(|said| !said.is_empty()));
    // What was framed comes out, each to its side.
    let pieces: Vec<(u8, &[u8])> = bytes
        .chunks(size)
        .zip([1, 2].into_iter().cycle())
        .map(|(piece, side)| (side, piece))
        .collect();
    let framed: Vec<u8> = pieces.iter().flat_map(|(side, piece)| frame(*side, piece)).collect();
    let of = |wanted| -> Vec<u8> {
        let own = pieces.iter().filter(|(side, _)| *side == wanted);
        own.flat_map(|(_, piece)| piece.iter().copied()).collect()
    };
    assert_eq!(engine::cli::unframed(&framed), (of(1), of(2), Ok(())));
    // Requests mean the same, however they are cut.
    assert_eq!(passed(bytes.chunks(size)), passed([bytes]));
});
