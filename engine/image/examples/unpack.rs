//! Unpacks layers into a directory, one after the other, as they come into the store: how long that takes, in seconds.
//!
//! `unpack DIRECTORY LAYER…`

#![expect(clippy::print_stdout, reason = "the measurement is the output")]

use std::env::args_os;
use std::fs::{File, create_dir};
use std::io;
use std::path::PathBuf;
use std::time::Instant;

fn main() -> io::Result<()> {
    let mut paths = args_os().skip(1).map(PathBuf::from);
    let into = paths.next().ok_or(io::ErrorKind::InvalidInput)?;
    let begun = Instant::now();
    for (number, layer) in paths.enumerate() {
        let directory = into.join(number.to_string());
        create_dir(&directory)?;
        image::unpack_layer(File::open(layer)?, &directory)?;
    }
    println!("{}", begun.elapsed().as_secs_f64());
    Ok(())
}
