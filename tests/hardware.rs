//! The run on hardware: measures this node with `-- --gpus N`, else judges recorded evidence.

fn main() -> std::process::ExitCode {
    // An argument that is no text is refused or not found like any other wrong one: no panic.
    let text = |argument: std::ffi::OsString| argument.to_string_lossy().into_owned();
    let arguments: Vec<String> = std::env::args_os().map(text).collect();
    let status = suites::hardware(&arguments);
    std::process::ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}
