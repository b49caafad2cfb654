use super::*;
use block::Fault;
use command::verdict;

#[test]
fn verdicts() {
    let fixed = |key: u8, code: u16| {
        let mut sense = vec![0; 18];
        (sense[0], sense[2], sense[7]) = (0x70, key, 10);
        sense[12..14].copy_from_slice(&code.to_be_bytes());
        sense
    };
    let described = |key: u8, code: u16| {
        let [high, low] = code.to_be_bytes();
        vec![0x72, key, high, low, 0, 0, 0, 0]
    };
    let failed = |fault| Verdict::Done(Err(fault));
    for (key, code, expected) in [
        (0x0, 0x0000, Verdict::Done(Ok(()))),
        (0x1, 0x1700, Verdict::Done(Ok(()))),
        (0x2, 0x0401, Verdict::Later),
        (0x2, 0x3a00, failed(Fault::Gone)),
        (0x3, 0x1100, failed(Fault::Medium)),
        (0x4, 0x4400, failed(Fault::Medium)),
        (0x5, 0x2100, failed(Fault::OutOfRange)),
        (0x5, 0x2400, failed(Fault::Unsupported)),
        (0x6, 0x2900, Verdict::Later),
        (0x7, 0x2707, failed(Fault::NoSpace)),
        (0x7, 0x2700, failed(Fault::Unsupported)),
        (0xb, 0x4705, Verdict::Later),
        (0xb, 0x2e00, failed(Fault::TimedOut)),
        (0xe, 0x1d00, failed(Fault::Miscompare)),
    ] {
        assert_eq!(verdict(2, &fixed(key, code)), expected, "{key:x}/{code:04x}");
        assert_eq!(verdict(2, &described(key, code)), expected, "{key:x}/{code:04x}");
    }
    assert_eq!(verdict(0, &[]), Verdict::Done(Ok(())));
    assert_eq!(verdict(0x18, &[]), failed(Fault::Fenced));
    for later in [0x08, 0x28, 0x30, 0x40] {
        assert_eq!(verdict(later, &[]), Verdict::Later);
    }
    // No sense data at all, or none that is known.
    for sense in [&[][..], &[0x70], &[0x7f; 20]] {
        assert_ne!(verdict(2, sense), Verdict::Later);
    }
}

#[test]
fn pages_may_be_short() {
    for len in 0..64 {
        let page = vec![0xff; len];
        command::parse_identification(&page);
        command::parse_caching(&page);
        command::parse_limits(&page);
        assert!(command::parse_capacity(&page).is_none(), "2^64 blocks");
    }
    let page = [0, 0x83, 0, 16, 1, 3, 0, 4, 1, 2, 3, 4, 1, 0x14, 0, 4, 0, 0, 0, 1];
    assert_eq!(command::parse_identification(&page), [(3, &[1, 2, 3, 4][..])], "the port's is left out");
}
