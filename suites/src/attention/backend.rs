//! The names under which documents ask for an attention, and what each of them runs here.

use kernels::attention::program::Program;
use kernels::attention::variant::Kernel;
use kernels::device::Gpu;

use super::scene::Setting;

/// The fastest forward kernel of a GPU.
pub fn kernel_for(gpu: &Gpu) -> Kernel {
    if gpu.compute_capability == (9, 0) { Kernel::Hopper } else { Kernel::Portable }
}

/// Makes a causal, windowed or full setting run under a name: `sdpa` is the plain kernel, `flex` the
/// programmable one with the same mask as a program, `auto` the plain one where it has the mask.
/// Returns the name of the active one.
///
/// Errors: another name, or a mask that no builtin program has.
pub fn choose(name: &str, setting: &mut Setting) -> Result<&'static str, String> {
    match name {
        "sdpa" | "auto" => Ok("sdpa"),
        "flex" => {
            let Setting { left, right, shape, .. } = setting;
            let (program, number) = match (&left, &right) {
                (None, Some(0)) => (Program::CAUSAL, 0),
                (Some(left), Some(0)) => (Program::WINDOW, *left as i32 + 1),
                (None, None) => (Program::PREFIX, shape.keys as i32),
                _ => return Err("flex has no program for this mask".into()),
            };
            (setting.program, setting.number) = (program, number);
            (setting.left, setting.right) = (None, None);
            Ok("flex")
        }
        other => Err(format!("attention backend {other} is none of flex, sdpa, auto")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, left: Option<u32>, causal: bool, expect: Result<(&str, &str, i32), &str>) {
        let shape = Setting::shape(1, 256, 2, 2, 64);
        let mut setting = Setting { left, ..Setting::plain(Kernel::Portable, shape, causal) };
        let active = choose(name, &mut setting);
        match (active, expect) {
            (Ok(active), Ok(expect)) => {
                assert_eq!((active, setting.program.name.as_ref(), setting.number), expect);
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (active, expect) => panic!("{active:?} is not {expect:?}"),
        }
    }

    #[test]
    fn names_choose_programs() {
        check("sdpa", None, true, Ok(("sdpa", "plain", 0)));
        check("auto", Some(3), true, Ok(("sdpa", "plain", 0)));
        check("flex", None, true, Ok(("flex", "causal", 0)));
        check("flex", Some(3), true, Ok(("flex", "window", 4)));
        check("flex", None, false, Ok(("flex", "prefix", 256)));
        check("flex", Some(3), false, Err("no program"));
        check("cudnn", None, true, Err("none of flex, sdpa, auto"));
    }
}
