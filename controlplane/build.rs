//! Tells the binary which commit and compiler it comes from.

use std::process::Command;

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned).filter(|line| !line.is_empty())
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TURNPIKE_COMMIT");
    // The file that changes with every commit, if this is a checkout.
    if let Some(path) = first_line(Command::new("git").args(["rev-parse", "--git-path", "logs/HEAD"]))
        && std::path::Path::new(&path).exists()
    {
        println!("cargo:rerun-if-changed={path}");
    }
    let commit = std::env::var("TURNPIKE_COMMIT")
        .ok()
        .or_else(|| first_line(Command::new("git").args(["rev-parse", "--short=12", "HEAD"])));
    println!("cargo:rustc-env=TURNPIKE_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    let rustc =
        std::env::var("RUSTC").ok().and_then(|rustc| first_line(Command::new(rustc).arg("--version")));
    // `rustc 1.95.0 (hash date)`: the number is enough.
    let number = rustc.as_deref().and_then(|line| line.split_whitespace().nth(1)).unwrap_or("unknown");
    println!("cargo:rustc-env=TURNPIKE_RUSTC={number}");
}
