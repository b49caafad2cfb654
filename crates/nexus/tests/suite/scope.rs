//! What a small world is made of, and what may happen in it.

/// A request of the script, by its block.
#[derive(Clone, Copy, Debug, Hash)]
pub enum Op {
    Read(u64),
    Write(u64),
    Fua(u64),
    Flush,
}

/// How much of each kind of trouble there may be.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct Budget {
    /// Requests of a member that fail.
    pub errors: u8,
    /// Devices that go away, having lost what was not flushed, or not.
    pub deaths: u8,
    /// Devices that come back, or are taken out by an operator.
    pub commands: u8,
    /// Times that time passes.
    pub ticks: u8,
    /// Records that the store does not get, or whose answer is lost.
    pub store: u8,
    /// The nexus is killed.
    pub crashes: u8,
    /// All lose power together.
    pub outages: u8,
    /// A nexus is cut off from a device.
    pub cuts: u8,
    /// Another nexus takes over from one that lives, and whose requests the members that it found refuse from then on.
    pub takeovers: u8,
}

/// What happens before the search begins, in the usual order. Each step is followed by everything that it entails, but for
/// the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// The volume serves.
    Serving,
    /// Block 0 was written.
    Written,
    /// A while passed.
    Paused,
    /// The last member was taken out.
    Out,
    /// It is back, and its rebuild begins.
    Back,
    /// It is back and copied, and the ledger with it is being recorded.
    Growing,
}

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub name: &'static str,
    pub members: usize,
    pub blocks: u64,
    pub region: u64,
    pub before: &'static [Before],
    /// Each script's requests are asked in order, at any time; scripts are independent of each other.
    pub scripts: &'static [&'static [Op]],
    /// A script whose requests go to the first nexus as long as it lives. (No reads: a nexus that was cut off answers them
    /// from members that its successor cannot reach.)
    pub to_first: &'static [Op],
    pub budget: Budget,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Ask {
        script: u8,
    },
    /// A request reaches its member and is answered.
    Deliver {
        life: u8,
        at: u8,
    },
    /// The member fails it with a medium error, having written it or not.
    Fail {
        life: u8,
        at: u8,
        written: bool,
    },
    Store {
        life: u8,
        answer: StoreAnswer,
    },
    /// A while passes (writes are tried again, regions cleared), or so much that a request is late.
    Tick {
        life: u8,
        late: bool,
    },
    /// A record that a dead nexus had sent reaches the store.
    Ghost,
    /// From now on the nexus cannot reach the device: its requests fail, and have been carried out or not.
    Cut {
        life: u8,
        device: u8,
    },
    /// A device goes; what was not flushed is lost or not.
    Die {
        device: u8,
        loses: bool,
    },
    Online {
        device: u8,
    },
    Offline {
        device: u8,
    },
    /// The nexus dies; of what is on its way, these land. With `power`, everybody's caches are lost, in this way.
    Crash {
        landed: u16,
        power: Option<u16>,
    },
    /// A nexus opens the volume from these devices.
    Open {
        devices: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreAnswer {
    Taken,
    /// It does not get there.
    Lost,
    /// It gets there, and the answer is lost.
    AnswerLost,
}
