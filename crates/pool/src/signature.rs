//! Who else may own a disk: the signatures of other formats. A disk that carries one is only overwritten with force.

/// How many bytes from the start of a disk [`detect`] wants to see (or all of a smaller disk).
pub const HEAD: u64 = 256 << 10;
/// How many bytes before the end of a disk [`detect`] wants to see.
pub const TAIL: u64 = 192 << 10;

fn has(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// Where a md superblock of version 0.90 or 1.0 lies on a disk of `size` bytes.
fn md_places(size: u64) -> [u64; 2] {
    let old = (size & !0xffff).saturating_sub(64 << 10);
    let new = ((size >> 9).saturating_sub(16) & !7) << 9;
    [old, new]
}

fn md(head: &[u8], tail: &[u8], size: u64) -> bool {
    const MAGIC: [u8; 4] = 0xa92b_4efcu32.to_le_bytes();
    let tail_start = size - tail.len() as u64;
    let late = md_places(size).into_iter().filter_map(|at| at.checked_sub(tail_start));
    has(head, 0, &MAGIC) || has(head, 4096, &MAGIC) || late.into_iter().any(|at| has(tail, at as usize, &MAGIC))
}

fn gpt(head: &[u8], tail: &[u8]) -> bool {
    let magic = b"EFI PART";
    let backup = [512, 4096].into_iter().filter_map(|n| tail.len().checked_sub(n));
    has(head, 512, magic) || has(head, 4096, magic) || backup.into_iter().any(|at| has(tail, at, magic))
}

fn zfs(head: &[u8]) -> bool {
    let magic = 0x00ba_b10cu64;
    let uberblocks = (128 << 10..256 << 10).step_by(1024);
    uberblocks.into_iter().any(|at| has(head, at, &magic.to_le_bytes()) || has(head, at, &magic.to_be_bytes()))
}

/// What is on a disk of `size` bytes, with its article, if it is something we know. `head` are its first [`HEAD`]
/// bytes, `tail` its last [`TAIL`] bytes (all of it when it is smaller). Never panics, whatever the bytes.
pub fn detect(head: &[u8], tail: &[u8], size: u64) -> Option<&'static str> {
    if tail.len() as u64 > size {
        return None;
    }
    let lvm = (0..4).any(|sector| has(head, sector * 512, b"LABELONE"));
    let swap = [4096, 65536].into_iter().any(|p| has(head, p - 10, b"SWAPSPACE2") || has(head, p - 10, b"SWAP-SPACE"));
    let checks: [(&'static str, bool); 14] = [
        ("a GPT partition table", gpt(head, tail)),
        ("an SPDK blobstore (a pool of Mayastor 0.3)", has(head, 0, b"SPDKBLOB")),
        ("an xfs file system", has(head, 0, b"XFSB")),
        ("an ext2, ext3 or ext4 file system", has(head, 1024 + 56, &[0x53, 0xef])),
        ("a btrfs file system", has(head, (64 << 10) + 64, b"_BHRfS_M")),
        ("an f2fs file system", has(head, 1024, &0xf2f5_2010u32.to_le_bytes())),
        ("an LVM physical volume", lvm),
        ("a LUKS volume", has(head, 0, b"LUKS\xba\xbe")),
        ("a swap area", swap),
        ("a member of an md RAID", md(head, tail, size)),
        ("a ZFS pool", zfs(head)),
        ("an ISO 9660 file system", has(head, 32769, b"CD001")),
        ("a bcache device", has(head, 4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca])),
        ("a partition table or boot sector", has(head, 510, &[0x55, 0xaa])),
    ];
    checks.into_iter().find(|(_, found)| *found).map(|(what, _)| what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(size: usize, at: usize, magic: &[u8]) -> Option<&'static str> {
        let mut bytes = vec![0; size];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        let (head, tail) = (&bytes[..size.min(HEAD as usize)], &bytes[size.saturating_sub(TAIL as usize)..]);
        detect(head, tail, size as u64)
    }

    #[test]
    fn each_signature_is_found_in_its_place() {
        let size = 1 << 20;
        for (at, magic, what) in [
            (512, &b"EFI PART"[..], "GPT"),
            (4096, b"EFI PART", "GPT"),
            (size - 512, b"EFI PART", "GPT"),
            (size - 4096, b"EFI PART", "GPT"),
            (510, b"\x55\xaa", "partition table or boot sector"),
            (1080, b"\x53\xef", "ext4"),
            (0, b"XFSB", "xfs"),
            (65600, b"_BHRfS_M", "btrfs"),
            (512, b"LABELONE", "LVM"),
            (0, b"LUKS\xba\xbe", "LUKS"),
            (4086, b"SWAPSPACE2", "swap"),
            (0, b"\xfc\x4e\x2b\xa9", "md"),
            (4096, b"\xfc\x4e\x2b\xa9", "md"),
            (size - 8192, b"\xfc\x4e\x2b\xa9", "md"),
            (size - 65536, b"\xfc\x4e\x2b\xa9", "md"),
            (128 << 10, b"\x0c\xb1\xba\0\0\0\0\0", "ZFS"),
            (0, b"SPDKBLOB", "SPDK"),
        ] {
            let found = disk(size, at, magic);
            assert!(found.is_some_and(|f| f.contains(what)), "{what} at {at}: {found:?}");
        }
        assert_eq!(disk(size, 0, b""), None);
        assert_eq!(disk(4096, 0, b""), None);
    }

    proptest! {
        #[test]
        fn detecting_never_panics(head in proptest::collection::vec(any::<u8>(), 0..5000), tail in proptest::collection::vec(any::<u8>(), 0..100), size in any::<u64>()) {
            detect(&head, &tail, size);
        }
    }
}
