use block::{BlockRange, Buf, Bytes, Durability, Fault};
use host::DiskExt;
use proptest::prelude::*;

use super::*;
use crate::malloc::Malloc;

const XTS: &str = "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592";
const CBC: &str = "0123456789abcdef";

fn cipher(key: &str) -> BlockCipher {
    BlockCipher::of_key(key).expect("a key").expect("not empty")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The first is IEEE 1619's vector 10; the others are OpenSSL's answers for the same keys.
#[test]
fn others_get_the_same() {
    let short: Vec<u8> = (0..512).map(|i| i as u8).collect();
    let long: Vec<u8> = (0..4096u32).map(|i| (i * 7 + i / 256) as u8).collect();
    for (key, lba, plain, first, last) in [
        (XTS, 0xff, &short, "1c3b3a102f770386e4836c99e370cf9b", "c4f36ffda9fcea70b9c6e693e148c151"),
        (XTS, 0xff_ffff_ffff, &short, "64497e5a831e4a932c09be3e5393376d", "d609d273ad5b0d59631c531f6a0a57b9"),
        (XTS, 0x1234_5678_9abc_def0, &long, "1404f356c4c8db0f0f410cb53b9ef319", "4a6528670d8b039b7d19ae79e2ac4f94"),
        (XTS, 0, &long, "a713e6493c9e1db208b29de59a0b3a0b", "eaf61d5c193a3cb64a09dd8e1d209464"),
        (CBC, 0xff, &short, "4d49338f4734ab9f2eadd68c000c9d6d", "2e71092cf901308a01c892742ae97f14"),
        (CBC, 0xff_ffff_ffff, &short, "76bded0415ee434403413141f5e4fe44", "c0e3db5e3ec0aa06096a799a594d97a3"),
        (CBC, 0x1234_5678_9abc_def0, &long, "f283d6dc026fca283270cf473c7560e2", "8a94942948a97a81ba488cef77ba3b55"),
        (CBC, 0, &long, "4ba4a9576048fc021f98177f31e81a41", "82b13b68a8ba19aa0a36e609fd934cd9"),
    ] {
        let mut block = plain.clone();
        cipher(key).encrypt(lba, &mut block);
        assert_eq!((hex(&block[..16]).as_str(), hex(&block[block.len() - 16..]).as_str()), (first, last));
        cipher(key).decrypt(lba, &mut block);
        assert_eq!(&block, plain);
    }
    assert_eq!(cipher(XTS).check().check, "964f92e6f33512b1");
    assert_eq!(cipher(CBC).check().check, "31e27f7c3b91dc31");
}

#[test]
fn what_is_no_key_is_refused_without_being_repeated() {
    let twice = "ab".repeat(64);
    let letters = "xy".repeat(64);
    for (text, error) in [
        ("k", KeyError::Length(1)),
        ("0123456789abcdefg", KeyError::Length(17)),
        (&XTS[1..], KeyError::Length(127)),
        (letters.as_str(), KeyError::Digits),
        (twice.as_str(), KeyError::Halves),
    ] {
        let refused = BlockCipher::of_key(text).map(|_| ()).expect_err(text);
        assert_eq!(refused, error);
        assert!(text.len() == 1 || !refused.to_string().contains(text));
    }
    assert!(BlockCipher::of_key("").expect("no key").is_none());
    // 16 characters can be more bytes.
    assert!(BlockCipher::of_key("0123456789abcdeé").is_err());
    assert_eq!(format!("{:?}", cipher(XTS)), "BlockCipher(aes-xts-256)");
    assert_ne!(cipher(CBC).check(), cipher("0123456789abcdeF").check());
}

/// A device of 16 MiB, and the same through a key.
fn device(key: &str, size: BlockSize) -> (DiskRef, DiskRef) {
    let below: DiskRef = Rc::new(Malloc::new("m", Bytes(16 << 20), size));
    (below.clone(), Encrypted::over(below, Rc::new(cipher(key))))
}

#[test]
fn it_is_a_disk() {
    for (key, size) in [(XTS, BlockSize::B512), (XTS, BlockSize::B4096), (CBC, BlockSize::B512)] {
        let world = sim::World::new(3);
        let host = world.host();
        world.run(async move { host::conformance::check_disk(&host, device(key, size).1).await });
    }
}

#[test]
fn below_lies_ciphertext_and_only_the_key_reads_it() {
    for (key, other) in [(XTS, CBC), (CBC, "0123456789abcdeF")] {
        let world = sim::World::new(3);
        world.run(async move {
            let (below, disk) = device(key, BlockSize::B512);
            let range = BlockRange::new(7, 4);
            let plain = Buf::copy_of(&b"a secret, repeated".repeat(200)[..2048]);
            disk.write(range, plain.clone(), Durability::Volatile).await.expect("written");
            assert_eq!(disk.read(range).await.expect("read"), plain);
            let secret = below.read(range).await.expect("read");
            assert!(secret.chunks(16).zip(plain.chunks(16)).all(|(a, b)| a != b));
            // The same contents at another place look different there.
            let again = BlockRange::new(100, 4);
            disk.write(again, plain.clone(), Durability::Volatile).await.expect("written");
            assert_ne!(below.read(again).await.expect("read"), secret);
            // The wrong key reads something else, and changes nothing.
            let wrong = Encrypted::over(below.clone(), Rc::new(cipher(other)));
            assert_ne!(wrong.read(range).await.expect("read"), plain);
            assert_eq!(disk.read(range).await.expect("read"), plain);
        });
    }
}

#[test]
fn nothing_written_is_zeroes_through_every_key() {
    let world = sim::World::new(3);
    world.run(async move {
        let (below, disk) = device(XTS, BlockSize::B512);
        let all = disk.geometry().all();
        assert!(disk.read(all).await.expect("read").iter().all(|b| *b == 0));
        let range = BlockRange::new(0, 8);
        disk.write(range, Buf::zeroes(4096), Durability::Volatile).await.expect("written");
        assert!(below.read(range).await.expect("read").iter().any(|b| *b != 0), "written zeroes are a secret");
        disk.unmap(BlockRange::new(1, 1)).await.expect("unmapped");
        disk.write_zeroes(BlockRange::new(3, 2), false).await.expect("cleared");
        assert!(disk.read(range).await.expect("read").iter().all(|b| *b == 0));
        let outside = BlockRange::new(all.len.0, 1);
        assert_eq!(disk.read(outside).await, Err(Fault::OutOfRange));
    });
}

proptest! {
    #[test]
    fn every_block_comes_back(lba: u64, seed: u8, big: bool, xts: bool) {
        let plain: Vec<u8> = (0..if big { 4096usize } else { 512 }).map(|i| (i as u8).wrapping_mul(seed)).collect();
        let cipher = cipher(if xts { XTS } else { CBC });
        let mut block = plain.clone();
        cipher.encrypt(lba, &mut block);
        prop_assert!(block != plain);
        cipher.decrypt(lba, &mut block);
        prop_assert_eq!(block, plain);
    }
}
