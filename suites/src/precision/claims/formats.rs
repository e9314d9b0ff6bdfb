//! The claims about formats: every code and every number of them, int8 and ternary int2 with them.

use harness::claim::{Claim, Relation};

use super::{At, OWN, claim};
use crate::precision::{formats, integers, ternary};

const fn encoded(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (formats::CASE.id, formats::CODES, at))
}

const fn decoded(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (formats::CASE.id, formats::NUMBERS, at))
}

const fn swept(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (formats::CASE.id, formats::DIFFERENT, at))
}

const fn native(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (formats::NATIVE_CASE.id, formats::DIFFERENT, at))
}

pub(super) static ENCODE_E4M3: Claim = encoded(
    "precision::encode-e4m3",
    "Every number of E4M3, every half-way point and their neighbours are converted to the right code.",
    &[("format", "e4m3")],
);
pub(super) static ENCODE_UE4M3: Claim = encoded(
    "precision::encode-ue4m3",
    "Every number of UE4M3, every half-way point and their neighbours are converted to the right code, numbers below zero to that of zero.",
    &[("format", "ue4m3")],
);
pub(super) static ENCODE_E5M2: Claim = encoded(
    "precision::encode-e5m2",
    "Every number of E5M2, every half-way point and their neighbours are converted to the right code.",
    &[("format", "e5m2")],
);
pub(super) static ENCODE_E2M1: Claim = encoded(
    "precision::encode-e2m1",
    "Every number of E2M1, every half-way point and their neighbours are converted to the right code.",
    &[("format", "e2m1")],
);
pub(super) static ENCODE_UE8M0: Claim = encoded(
    "precision::encode-ue8m0",
    "Every number of UE8M0, every half-way point and their neighbours are converted to the right code.",
    &[("format", "ue8m0")],
);
pub(super) static ENCODE_F16: Claim = encoded(
    "precision::encode-fp16",
    "Every number of fp16, every half-way point and their neighbours are converted to the right code.",
    &[("format", "fp16")],
);
pub(super) static ENCODE_BF16: Claim = encoded(
    "precision::encode-bf16",
    "Every number of bfloat16, every half-way point and their neighbours are converted to the right code.",
    &[("format", "bf16")],
);
pub(super) static DECODE_E4M3: Claim = decoded(
    "precision::decode-e4m3",
    "Every code of E4M3 stands for the number that its definition gives.",
    &[("format", "e4m3")],
);
pub(super) static DECODE_UE4M3: Claim = decoded(
    "precision::decode-ue4m3",
    "Every code of UE4M3 stands for the number that its definition gives.",
    &[("format", "ue4m3")],
);
pub(super) static DECODE_E5M2: Claim = decoded(
    "precision::decode-e5m2",
    "Every code of E5M2 stands for the number that its definition gives.",
    &[("format", "e5m2")],
);
pub(super) static DECODE_E2M1: Claim = decoded(
    "precision::decode-e2m1",
    "Every code of E2M1 stands for the number that its definition gives.",
    &[("format", "e2m1")],
);
pub(super) static DECODE_UE8M0: Claim = decoded(
    "precision::decode-ue8m0",
    "Every code of UE8M0 stands for the number that its definition gives.",
    &[("format", "ue8m0")],
);
pub(super) static DECODE_F16: Claim = decoded(
    "precision::decode-fp16",
    "Every code of fp16 stands for the number that its definition gives.",
    &[("format", "fp16")],
);
pub(super) static DECODE_BF16: Claim = decoded(
    "precision::decode-bf16",
    "Every code of bfloat16 stands for the number that its definition gives.",
    &[("format", "bf16")],
);
pub(super) static EVERY_E4M3: Claim = swept(
    "precision::every-f32-to-e4m3",
    "The chip converts every f32 to E4M3 as integer arithmetic does.",
    &[("format", "e4m3")],
);
pub(super) static EVERY_UE4M3: Claim = swept(
    "precision::every-f32-to-ue4m3",
    "The chip's conversion to E4M3, of numbers below zero as of zero, converts every f32 to UE4M3 as integer arithmetic does.",
    &[("format", "ue4m3")],
);
pub(super) static EVERY_E5M2: Claim = swept(
    "precision::every-f32-to-e5m2",
    "The chip converts every f32 to E5M2 as integer arithmetic does.",
    &[("format", "e5m2")],
);
pub(super) static EVERY_F16: Claim = swept(
    "precision::every-f32-to-fp16",
    "The chip converts every f32 to fp16 as integer arithmetic does.",
    &[("format", "fp16")],
);
pub(super) static EVERY_BF16: Claim = swept(
    "precision::every-f32-to-bf16",
    "The chip converts every f32 to bfloat16 as integer arithmetic does.",
    &[("format", "bf16")],
);
pub(super) static NATIVE_E2M1: Claim = native(
    "precision::every-f32-to-e2m1",
    "The chip converts every f32 to E2M1 as integer arithmetic does.",
    &[("format", "e2m1")],
);
pub(super) static NATIVE_UE8M0: Claim = native(
    "precision::every-f32-to-ue8m0",
    "The chip converts every f32 to UE8M0 as integer arithmetic does.",
    &[("format", "ue8m0")],
);

const fn integer(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, OWN, relation, (integers::CASE.id, metric, at))
}

pub(super) static ENCODE_INT8: Claim = integer(
    "precision::encode-int8",
    "Every half, times each of five factors, is converted to the right code of int8, packed.",
    Relation::Holds,
    (integers::CODES, &[("format", "int8")]),
);
pub(super) static DECODE_INT8: Claim = integer(
    "precision::decode-int8",
    "Every code of int8, in every place of a word, stands for the number that its definition gives.",
    Relation::Holds,
    (integers::NUMBERS, &[("format", "int8")]),
);
pub(super) static ENCODE_INT2: Claim = integer(
    "precision::encode-int2",
    "Every half, times each of five factors, is converted to the right code of ternary int2, packed.",
    Relation::Holds,
    (integers::CODES, &[("format", "int2")]),
);
pub(super) static DECODE_INT2: Claim = integer(
    "precision::decode-int2",
    "Every code of ternary int2, in every place of a word, stands for the number that its definition gives.",
    Relation::Holds,
    (integers::NUMBERS, &[("format", "int2")]),
);
pub(super) static BITS_TERNARY: Claim = claim(
    "precision::quantise-ternary",
    "A matrix is quantised to ternary numbers by its mean magnitude with the codes and the scale of the definition, bit by bit, also where the sum has more than 64 bits.",
    OWN,
    Relation::Holds,
    (ternary::CASE.id, ternary::DIFFERING, &[]),
);
pub(super) static SILENT_TERNARY: Claim = claim(
    "precision::quantise-ternary-not-finite",
    "A NaN or an infinity, first or last in a matrix, leaves every ternary code as the one that stands for nothing, and a NaN as the scale.",
    OWN,
    Relation::Holds,
    (ternary::CASE.id, ternary::SILENT, &[]),
);
pub(super) static BITS_INT8: Claim = integer(
    "precision::quantise-int8-row",
    "A matrix is quantised to int8 by rows with the codes and scales of the definition, bit by bit.",
    Relation::Holds,
    (integers::DIFFERING, &[("format", "int8")]),
);
pub(super) static BOUND_INT8: Claim = integer(
    "precision::quantise-int8-row-error",
    "No number that is quantised to int8 by rows errs by more than the format proves.",
    Relation::AtMost,
    (integers::ERROR, &[("format", "int8")]),
);
