//! Faults of a run's archive.

use super::{Fault, Plant};

const fn fault(name: &'static str, plant: fn(Vec<u8>) -> Vec<u8>, names: &'static str) -> Fault {
    Fault { name, file: "archive", as_what: "refused", names, plant: Plant::Archive(plant) }
}

/// A block of a tar.
const BLOCK: usize = 512;

/// The archive with another member before its first.
fn with(archive: &[u8], name: &str, kind: tar::EntryType, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    [header.as_bytes().as_slice(), archive].concat()
}

fn second_of_its_members(archive: &[u8]) -> Vec<u8> {
    // The manifest: its header and its text, in whole blocks, once more in front.
    let mut first = tar::Archive::new(archive);
    let size = first.entries().ok().and_then(|mut all| Some(all.next()?.ok()?.size()));
    let end = BLOCK
        + usize::try_from(size.unwrap_or_default()).unwrap_or_default().next_multiple_of(BLOCK);
    [&archive[..end.min(archive.len())], archive].concat()
}

pub(super) static FAULTS: &[Fault] = &[
    fault("cut in the middle", |tar| tar[..tar.len() / 2].to_owned(), "is cut"),
    fault("cut after the manifest", |tar| tar[..tar.len().min(2 * BLOCK)].to_owned(), "is cut"),
    fault("empty", |_| Vec::new(), "an archive of a run holds one folder"),
    fault("no archive", |_| vec![b'x'; 2 * BLOCK], "when getting cksum"),
    fault(
        "a header that was changed",
        |mut tar| {
            tar[0] ^= 1;
            tar
        },
        "archive header checksum mismatch",
    ),
    fault(
        "a file outside of its folder",
        |tar| with(&tar, "../elsewhere", tar::EntryType::Regular, 0),
        "would lie outside",
    ),
    fault(
        "a file with an absolute name",
        |tar| with(&tar, "/etc/elsewhere", tar::EntryType::Regular, 0),
        "would lie outside",
    ),
    fault(
        "a file in a second folder",
        |tar| with(&tar, "another/file", tar::EntryType::Regular, 0),
        "holds one folder",
    ),
    fault("a link", |tar| with(&tar, "a/link", tar::EntryType::Symlink, 0), "is no file: Symlink"),
    fault("a device", |tar| with(&tar, "a/device", tar::EntryType::Char, 0), "is no file: Char"),
    fault(
        "a file of more bytes than there are",
        |tar| with(&tar, "a/bomb", tar::EntryType::Regular, 1 << 32),
        "is cut",
    ),
    fault("a member twice", |tar| second_of_its_members(&tar), "stands twice"),
];
