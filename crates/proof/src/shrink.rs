//! Makes a failing scenario shorter, as long as it still fails in the same way.

use crate::oracle::Wrong;
use crate::{Scenario, run};

/// Runs that may be spent on it.
const BUDGET: u32 = 120;

/// The shortest that was found.
pub struct Short {
    /// The scenario.
    pub scenario: Scenario,
    /// How it fails.
    pub wrong: Wrong,
    /// Runs that were spent.
    pub runs: u32,
}

/// Deletes events, then clients' work, as long as the same kind of failure remains.
pub fn shrink(scenario: &Scenario, wrong: &Wrong) -> Short {
    let mut best = Short { scenario: scenario.clone(), wrong: wrong.clone(), runs: 0 };
    // Halves first, then single events.
    let mut step = best.scenario.events.len().div_ceil(2);
    while step > 0 && best.runs < BUDGET {
        let mut at = 0;
        while at < best.scenario.events.len() && best.runs < BUDGET {
            let mut events = best.scenario.events.clone();
            let end = (at + step).min(events.len());
            events.drain(at..end);
            let tried = Scenario { events, ..best.scenario.clone() };
            if !best.take(tried) {
                at += step;
            }
        }
        step /= 2;
    }
    let last = best.scenario.events.last().map_or(0, |e| e.at_ms);
    for extra in [200, 1000, 3000] {
        if best.scenario.run_ms > last + extra && best.take(Scenario { run_ms: last + extra, ..best.scenario.clone() })
        {
            break;
        }
    }
    let shorter: [fn(&mut Scenario); 5] = [
        |s| s.work.depth = 1,
        |s| s.work.blocks = 4,
        |s| s.work.zeroes = 0,
        |s| s.volumes.truncate(1),
        |s| s.nodes.truncate(3),
    ];
    for change in shorter {
        let mut tried = best.scenario.clone();
        change(&mut tried);
        if tried != best.scenario && best.runs < BUDGET {
            best.take(tried);
        }
    }
    best
}

impl Short {
    /// Takes the scenario when it fails in the same way.
    fn take(&mut self, tried: Scenario) -> bool {
        self.runs += 1;
        let wrong = run(&tried, false).wrong;
        let same = wrong.filter(|w| w.exit_code() == self.wrong.exit_code());
        if let Some(wrong) = same {
            self.wrong = wrong;
            self.scenario = tried;
            return true;
        }
        false
    }
}
