//! The names under which documents ask for an attention, and what each of them runs here.

use kernels::attention::program::Program;
use kernels::attention::variant::{Kernel, Variant};
use kernels::device::Gpu;

use super::scene::Setting;

/// The fastest forward kernel of a GPU.
pub fn kernel_for(gpu: &Gpu) -> Kernel {
    if gpu.compute_capability == (9, 0) { Kernel::Hopper } else { Kernel::Portable }
}

/// The name of what a loaded variant is: `sdpa` without a program, else `flex`.
pub fn active(loaded: &Variant) -> &'static str {
    if loaded.program == Program::PLAIN { "sdpa" } else { "flex" }
}

/// Makes a setting run under a name: `sdpa` is the plain kernel, `flex` the programmable one, with a
/// causal, windowed or full mask as a program, `auto` the plain one where it has the mask.
///
/// Errors: another name, a mask that no builtin program has, or a program under `sdpa`.
pub fn choose(name: &str, setting: &mut Setting) -> Result<(), String> {
    let programmed = setting.program != Program::PLAIN;
    match name {
        "sdpa" if programmed => Err(format!("sdpa has no {}", setting.program.name)),
        "flex" if programmed => Ok(()),
        "sdpa" | "auto" => Ok(()),
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
            Ok(())
        }
        other => Err(format!("attention backend {other} is none of flex, sdpa, auto")),
    }
}

#[cfg(test)]
mod tests {
    use kernels::element::Element;

    use super::*;

    /// The program that runs a setting under a name, with its number.
    #[track_caller]
    fn check(name: &str, mut setting: Setting, expect: Result<(&str, i32), &str>) {
        match (choose(name, &mut setting), expect) {
            (Ok(()), Ok(expect)) => {
                assert_eq!((setting.program.name.as_ref(), setting.number), expect);
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expect) => panic!("{found:?} is not {expect:?}"),
        }
    }

    #[test]
    fn names_choose_programs() {
        let of = |left: Option<u32>, causal: bool| {
            let shape = Setting::shape(1, 256, 2, 2, 64);
            Setting { left, ..Setting::plain(Kernel::Portable, shape, causal) }
        };
        check("sdpa", of(None, true), Ok(("plain", 0)));
        check("auto", of(Some(3), true), Ok(("plain", 0)));
        check("flex", of(None, true), Ok(("causal", 0)));
        check("flex", of(Some(3), true), Ok(("window", 4)));
        check("flex", of(None, false), Ok(("prefix", 256)));
        check("flex", of(Some(3), false), Err("no program"));
        check("cudnn", of(None, true), Err("none of flex, sdpa, auto"));
        let dilated = Setting { program: Program::DILATED, number: 3, ..of(None, false) };
        check("auto", dilated.clone(), Ok(("dilated", 3)));
        check("flex", dilated.clone(), Ok(("dilated", 3)));
        check("sdpa", dilated, Err("sdpa has no dilated"));
    }

    #[test]
    fn what_is_loaded_names_itself() {
        let of = |program| Variant::new(Kernel::Portable, Element::F16, 128, program);
        assert_eq!(active(&of(Program::PLAIN)), "sdpa");
        assert_eq!(active(&of(Program::CAUSAL)), "flex");
    }
}
