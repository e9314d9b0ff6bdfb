//! The run on hardware: measures this node with `-- --gpus N`, else judges recorded evidence.

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let status = suites::hardware(&arguments);
    std::process::ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}
