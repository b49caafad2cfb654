use std::cell::RefCell;
use std::rc::Rc;

use block::{BlockSize, Features};
use proptest::prelude::*;

use super::*;

type Log = Rc<RefCell<Vec<(u32, Outcome)>>>;

fn limits() -> Limits {
    let features = Features { unmap: true, write_zeroes: true, volatile_cache: true, ..Features::default() };
    Limits {
        geometry: Geometry { block_size: BlockSize::B512, blocks: Blocks(1 << 20), features },
        transfer: Blocks(16),
        zeroes: Some(Blocks(100)),
        unmap: Clear::WriteZeroes,
    }
}

fn add(flights: &mut Flights, log: &Log, name: u32, request: Request) {
    let log = log.clone();
    flights.add(request, Ticket::new(move |outcome| log.borrow_mut().push((name, outcome))));
}

fn give(answers: Answers) {
    for (ticket, outcome) in answers {
        ticket.answer(outcome);
    }
}

/// Answers a part as the target would; a read brings the low byte of each block's address.
fn done(flights: &mut Flights, part: Part, outcome: Result<(), Fault>) {
    let data = match part.op {
        Op::Read(range) if outcome.is_ok() => {
            let mut buf = BufMut::new(range.len.0 as usize * 512);
            for (i, block) in buf.chunks_mut(512).enumerate() {
                block.fill((range.start.0 + i as u64) as u8);
            }
            Some(buf)
        }
        _ => None,
    };
    let mut answers = Answers::new();
    flights.done(part, Reply::Done(outcome), data, &mut answers);
    give(answers);
}

fn read(start: u64, len: u64) -> Request {
    Request::Read { range: BlockRange::new(start, len) }
}
fn write(durability: Durability) -> Request {
    Request::Write { range: BlockRange::new(0, 1), data: Buf::zeroes(512), durability }
}

#[test]
fn a_long_read_is_cut_and_put_together_in_order() {
    let (mut flights, log) = (Flights::new(limits()), Log::default());
    add(&mut flights, &log, 1, read(5, 40));
    let mut parts = Vec::new();
    while let Some(part) = flights.next() {
        parts.push(part);
    }
    assert_eq!(parts.len(), 3);
    for part in parts.into_iter().rev() {
        assert!(log.borrow().is_empty());
        done(&mut flights, part, Ok(()));
    }
    let (name, outcome) = log.borrow_mut().pop().expect("answered");
    let data = outcome.expect("read").into_buf();
    assert_eq!((name, data.len()), (1, 40 * 512));
    assert!(data.chunks(512).enumerate().all(|(i, block)| block.iter().all(|b| *b == 5 + i as u8)));
}

#[test]
fn one_failed_part_fails_the_request_once_all_are_back() {
    let (mut flights, log) = (Flights::new(limits()), Log::default());
    add(&mut flights, &log, 1, read(0, 32));
    let a = flights.next().expect("two parts");
    let b = flights.next().expect("two parts");
    done(&mut flights, a, Err(Fault::Medium));
    assert!(log.borrow().is_empty(), "the second part is still on its way");
    done(&mut flights, b, Ok(()));
    assert_eq!(log.borrow()[0].1.as_ref().err(), Some(&Fault::Medium));
}

#[test]
fn what_a_connection_left_behind_goes_first_and_in_order() {
    let (mut flights, log) = (Flights::new(limits()), Log::default());
    for name in 0..4 {
        add(&mut flights, &log, name, write(Durability::Volatile));
    }
    let a = flights.next().expect("part");
    let b = flights.next().expect("part");
    flights.again(vec![b, a]);
    for expected in 0..4 {
        let part = flights.next().expect("part");
        assert_eq!(part.serial, expected);
        done(&mut flights, part, Ok(()));
    }
    assert_eq!(log.borrow().iter().map(|(name, _)| *name).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn the_deadline_tells_known_from_unknown_and_late_answers_go_nowhere() {
    let (mut flights, log) = (Flights::new(limits()), Log::default());
    add(&mut flights, &log, 1, write(Durability::Volatile));
    add(&mut flights, &log, 2, write(Durability::Volatile));
    let sent = flights.next().expect("part");
    let mut answers = Answers::new();
    for _ in 0..8 {
        assert!(!flights.tick(8, &mut answers));
        assert!(answers.is_empty());
    }
    assert!(flights.tick(8, &mut answers), "the target knows of one");
    give(answers);
    let found: Vec<_> = log.borrow().iter().map(|(n, o)| (*n, o.clone().err())).collect();
    assert_eq!(found, [(1, Some(Fault::TimedOut)), (2, Some(Fault::Gone))]);
    assert!(flights.next().is_none(), "nothing of them is left to send");
    // A new request takes the same place; the late answer is not for it.
    add(&mut flights, &log, 3, write(Durability::Volatile));
    done(&mut flights, sent, Ok(()));
    assert_eq!(log.borrow().len(), 2);
    let mut answers = Answers::new();
    flights.fail_all(Fault::Aborted, &mut answers);
    give(answers);
    assert_eq!(log.borrow().len(), 3);
}

#[test]
fn a_passing_refusal_is_tried_again_at_the_next_tick() {
    let (mut flights, log) = (Flights::new(limits()), Log::default());
    add(&mut flights, &log, 1, Request::Flush);
    let part = flights.next().expect("part");
    flights.done(part, Reply::Later, None, &mut Answers::new());
    assert!(flights.next().is_none() && log.borrow().is_empty());
    flights.tick(8, &mut Answers::new());
    let part = flights.next().expect("again");
    done(&mut flights, part, Ok(()));
    assert!(log.borrow()[0].1.is_ok());
}

#[test]
fn unflushed_changes_are_counted_as_the_contract_of_flush_says() {
    let (mut flights, log) = (Flights::new(limits()), Log::default());
    let run = |flights: &mut Flights, request| {
        add(flights, &log, 0, request);
        let part = flights.next().expect("part");
        done(flights, part, Ok(()));
    };
    run(&mut flights, write(Durability::Durable));
    assert_eq!(flights.unflushed(), 0);
    run(&mut flights, write(Durability::Volatile));
    assert_eq!(flights.unflushed(), 1);
    // A flush that was submitted before a write was answered does not cover it.
    add(&mut flights, &log, 9, Request::Flush);
    let flush = flights.next().expect("part");
    run(&mut flights, Request::Unmap { range: BlockRange::new(0, 8) });
    assert_eq!(flights.unflushed(), 2);
    done(&mut flights, flush, Ok(()));
    assert_eq!(flights.unflushed(), 1);
    run(&mut flights, Request::Flush);
    assert_eq!(flights.unflushed(), 0);
}

#[test]
fn clearing_uses_what_the_namespace_offers() {
    let range = BlockRange::new(7, 250);
    let ops = |limits: &Limits, request| {
        let mut ops = Vec::new();
        split(limits, request, |op| ops.push(op));
        ops
    };
    let unmap = || Request::Unmap { range };
    let best = ops(&limits(), unmap());
    assert!(best.len() == 3 && best.iter().all(|op| matches!(op, Op::WriteZeroes(_, true, Durability::Volatile))));
    let hint = ops(&Limits { unmap: Clear::Deallocate, ..limits() }, unmap());
    assert!(matches!(hint[..], [Op::Deallocate(r)] if r == range));
    let poor = ops(&Limits { unmap: Clear::Write, zeroes: None, ..limits() }, unmap());
    assert_eq!(poor.len(), 250usize.div_ceil(16));
    assert!(poor.iter().all(|op| matches!(op, Op::Write(r, data, _) if data.len() as u64 == r.len.0 * 512)));
}

proptest! {
    #[test]
    fn pieces_cover_the_range_once(start in 0u64..1 << 40, len in 1u64..5000, most in 1u64..700) {
        let range = BlockRange::new(start, len);
        let mut next = start;
        pieces(range, Blocks(most), |piece, at| {
            assert_eq!((piece.start.0, at.0), (next, next - start));
            assert!(piece.len.0 >= 1 && piece.len.0 <= most);
            next += piece.len.0;
        });
        prop_assert_eq!(next, start + len);
    }
}
