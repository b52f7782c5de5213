//! Compiles the toolbox, the content of the built-in image: one static program that needs nothing
//! but the standard library.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=toolbox");
    println!("cargo::rerun-if-changed=build.rs");
    let source = env::current_dir().expect("the package's directory").join("toolbox");
    let out = env::var("OUT_DIR").expect("set by cargo");
    let target = env::var("TARGET").expect("set by cargo");
    let rustc = env::var("RUSTC").expect("set by cargo");
    let mut command = Command::new(rustc);
    command
        .args(["--edition", "2024", "--crate-name", "toolbox", "--crate-type", "bin"])
        .args(["--target", &target, "-C", "target-feature=+crt-static", "-C", "opt-level=s"])
        .args(["-C", "panic=abort", "-C", "strip=symbols", "-C", "lto=fat"])
        // The same bytes whatever directory it is built in: the image's digest depends on them.
        .args(["-C", "codegen-units=1"])
        .arg(format!("--remap-path-prefix={}=toolbox", source.display()))
        .arg("-o")
        .arg(Path::new(&out).join("toolbox"))
        .arg(source.join("main.rs"));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        command.arg("-C").arg(format!("linker={linker}"));
    }
    let status = command.status().expect("rustc can be started");
    assert!(status.success(), "the toolbox does not compile: {status}");
}
