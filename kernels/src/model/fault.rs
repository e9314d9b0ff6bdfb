//! Faults that are planted in a forward pass, so that what must see them can be seen to.

use std::time::Duration;

/// What is planted in one layer of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A rank's columns inside the MLP do not arrive.
    Dropped {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
    },
    /// Two ranks' columns inside the MLP arrive in each other's place; of two ranks, the halves of each
    /// one's columns.
    Swapped {
        /// The layer.
        layer: u32,
    },
    /// A rank's products of a layer begin late. This changes no bit.
    Delayed {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
        /// How late.
        time: Duration,
    },
    /// The lowest bit of the first element of a rank's copy of the residual stream is flipped behind a
    /// layer.
    Stray {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
    },
    /// As [`Fault::Delayed`], and in that layer no rank waits for what another one sends.
    Unwaited {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
        /// How late.
        time: Duration,
    },
    /// What a rank sends in a layer leaves late. This changes no bit.
    SentLate {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
        /// How late.
        time: Duration,
    },
    /// Nothing is sent: what a pass costs without communication. Its results are wrong.
    Silent {
        /// The ranks still wait for each other as if something were.
        in_step: bool,
    },
    /// As many bytes are sent as one piece each, to where they do not belong: what rows that lie apart
    /// cost. Results are wrong.
    Flat,
    /// The first layers are run twice.
    Repeated {
        /// How many.
        layers: u32,
    },
    /// In a layer, queries no longer see keys that lie further back.
    Forgotten {
        /// The layer.
        layer: u32,
        /// Keys before a query's own that it still sees.
        left: u32,
    },
    /// In a layer, something is wrong with the keys and values that are kept in E4M3.
    Codes {
        /// The layer.
        layer: u32,
        /// What.
        fault: CodesFault,
    },
    /// In a layer a rank reads the first chunk late, of attention and inside the MLP, or what it sends of it leaves late.
    HeldUp {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
        /// How late.
        time: Duration,
        /// What is late.
        held: Held,
        /// What takes the chunk's place waits for it, as it should.
        waits: bool,
    },
    /// A rank adds the second half of each sum before the first.
    OtherOrder {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
    },
}

/// What of a rank is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The stage that reads what all ranks made.
    Reading,
    /// The copies of what it made.
    Sending,
}

/// What is wrong with keys and values that are kept in E4M3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodesFault {
    /// Chunks behind the first add none.
    Stale,
    /// Chunks behind the first overwrite those of the first too.
    Clobbered,
}
