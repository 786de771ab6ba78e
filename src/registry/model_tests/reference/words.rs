//! What is done to the registry and what is seen of it, in numbers: names, keys, passwords, addresses, listeners, people, tokens.
//!
//! Entering and leaving: everything that passes between the reference, the broker that is held against it, and the course of
//! events that both are put through.

/// Seconds; the start is 0.
pub(in super::super) type Time = u64;

/// What a device proves itself with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Proof {
    pub(in super::super) key: Option<usize>,
    pub(in super::super) password: Option<usize>,
}

/// What befalls the write of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Mishap {
    /// Nothing is written, and the broker goes on.
    Refused,
    /// It is written and not synced, the broker stops; what is found afterwards is this.
    NotSynced { survives: bool },
    /// It is durable, and the broker stops.
    AnswerLost,
}

/// What a device shows as a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Shown {
    Token(usize),
    /// A token with one digit changed.
    Forged(usize),
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Who {
    /// The program that embeds the broker.
    Program,
    /// Somebody at the socket: one person with the program, whatever the uid.
    Socket(u32),
    /// A user of the broker.
    Person(usize),
}

/// What a user of the broker may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a right of its own")]
pub(in super::super) struct Rights {
    pub(in super::super) enabled: bool,
    /// May write to the route of tokens.
    pub(in super::super) tokens: bool,
    /// May write to the routes of requests.
    pub(in super::super) requests: bool,
    /// Holds what the role `sensor` gives.
    pub(in super::super) holds: bool,
}

/// What is granted: nothing; the role `sensor`; the same until [`ENDS`](super::ENDS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Terms {
    Nothing,
    Sensor,
    SensorForAWhile,
}

/// An entry `[[registry.rule]]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Rule {
    pub(in super::super) from: Option<usize>,
    pub(in super::super) listener: Option<usize>,
    /// Keys that are Ed25519.
    pub(in super::super) ed25519: bool,
    pub(in super::super) name: Option<usize>,
    /// `None`: it denies.
    pub(in super::super) grants: Option<RuleGrants>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct RuleGrants {
    pub(in super::super) terms: Terms,
    pub(in super::super) while_locked: bool,
    pub(in super::super) limit: usize,
}

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Registration {
    pub(in super::super) name: usize,
    pub(in super::super) proof: Proof,
    pub(in super::super) from: usize,
    pub(in super::super) listener: usize,
    pub(in super::super) nonce: Option<usize>,
    pub(in super::super) token: Option<Shown>,
    /// Does its connection stay up?
    pub(in super::super) listens: bool,
    /// In CBOR, not JSON: which makes no difference.
    pub(in super::super) cbor: bool,
}

/// A CONNECT with a name and a password that open nothing.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Knocking {
    pub(in super::super) name: usize,
    pub(in super::super) password: usize,
    pub(in super::super) from: usize,
    pub(in super::super) listener: usize,
    /// Is there room for a code in the answer?
    pub(in super::super) told: bool,
}

#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Deed {
    Register(Registration),
    Knock(Knocking),
    Grant {
        request: usize,
        who: Who,
        terms: Terms,
        unpaired: bool,
    },
    Deny {
        request: usize,
        who: Who,
    },
    Unlock {
        count: Option<u32>,
        name: Option<usize>,
        from: Option<usize>,
        listener: Option<usize>,
        implicit: bool,
    },
    Lock,
    CreateToken {
        who: Who,
        uses: u32,
        lasts: Time,
        name: Option<usize>,
        from: Option<usize>,
        terms: Terms,
    },
    RevokeToken {
        token: usize,
        who: Who,
    },
    /// This person gets these rights; `None`: is deleted. Whoever comes back is somebody else of the same name.
    Person {
        person: usize,
        rights: Option<Rights>,
    },
    /// The name may be taken by a new key.
    Open(usize),
    Cancel(usize),
    /// In a session of this user, proven with this one of its certificates.
    Renew {
        name: usize,
        certificate: usize,
        key: usize,
    },
    /// In a registration session, by the old key.
    RenewLapsed {
        name: usize,
        certificate: usize,
        key: usize,
        from: usize,
        nonce: usize,
    },
    /// The certificate has connected.
    Connect {
        name: usize,
        certificate: usize,
    },
    Revoke {
        name: usize,
        certificate: usize,
    },
    Enable {
        name: usize,
        enabled: bool,
    },
    Delete(usize),
    /// Somebody makes a user of this name by other means.
    TakeName(usize),
    Challenge(usize),
    /// Time passes, and the broker's clock ticks.
    Advance(Time),
    /// With these rules in broker.toml.
    Restart(usize),
}

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Op {
    pub(in super::super) deed: Deed,
    pub(in super::super) mishap: Option<Mishap>,
}

/// What is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Expect {
    /// 202.
    Pending,
    /// 201, with this certificate.
    Granted(Option<usize>),
    /// One of these.
    Refused(Vec<(u16, &'static str)>),
    /// An operator's order was carried out.
    Done,
    /// It was not: 403, 404, 409, 422.
    Not(u16),
    /// The disk has failed: 500.
    Failed,
    /// Nothing was asked.
    Nothing,
    /// A CONNECT is refused as any other one.
    Shut,
    /// It is told to wait, with the code of this name and password. `named`: with that of a request that came by another door.
    Waiting { named: bool },
    /// It is told that it was turned down.
    TurnedDown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Revoked {
    No,
    Superseded,
    ForGood,
}

/// Somebody as two people are told apart: the machine, or a person who was the so many-th of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Identity {
    Machine,
    Person(usize, usize),
}

/// Key, end and revocation of each certificate.
pub(in super::super) type Certificates = Vec<(usize, Time, Revoked)>;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct RequestSeen {
    pub(in super::super) name: usize,
    pub(in super::super) key: Option<usize>,
    pub(in super::super) password: bool,
    pub(in super::super) state: &'static str,
    pub(in super::super) replaces: bool,
    pub(in super::super) token: Option<usize>,
    /// The rule that has granted it.
    pub(in super::super) rule: Option<String>,
    /// Who would grant it, and what.
    pub(in super::super) approved: Option<(Identity, Terms)>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct UserSeen {
    pub(in super::super) name: usize,
    pub(in super::super) enabled: bool,
    pub(in super::super) password: bool,
    pub(in super::super) terms: Terms,
    pub(in super::super) certificates: Certificates,
}

/// How the door stands.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum DoorSeen {
    Locked,
    Open,
    /// To so many more.
    Counted(u32),
}

/// All that operators may see, sorted.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Picture {
    pub(in super::super) requests: Vec<RequestSeen>,
    pub(in super::super) users: Vec<UserSeen>,
    /// Names that are open to a new key.
    pub(in super::super) open: Vec<usize>,
    pub(in super::super) pending: usize,
    /// Number and uses of each token whose time is not over.
    pub(in super::super) tokens: Vec<(usize, u32)>,
    pub(in super::super) door: DoorSeen,
}
