//! Faults that are planted, one rule broken each: the search must find every one of them, or it proves nothing.

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Earlier news of a connection stands against later ones.
    NewsOutOfOrder,
    /// A later request goes to this node's server, whatever was decided.
    WrongServer,
    /// The last byte that the reader has is lost.
    TakesTooLittle,
    /// A distributor decides whoever made the cookie, and whatever has become of its lease.
    NoLeases,
    /// A packet of a connection that has just begun is one of an unknown connection.
    BegunIsUnknown,
    /// What the tables say of one pool's targets counts for the other's.
    AnyServer,
    /// The programs are not told that a pool has other servers.
    OldPools,
    /// A service that ends is forgotten at once.
    EndsAtOnce,
    /// What a server has taken of a reader's connection the reader does not hear.
    TakenIsNotTold,
    /// A switch that says nothing counts as one that has been heard just now.
    SilentIsHeard,
    /// Each node goes by its own wall clock.
    WallClocks,
    /// Dispatchers do not tell each other what they decide.
    ChangesAreNotShared,
    /// What a dispatcher remembers does not reach one that asks for it.
    NothingIsRecalled,
    /// A connection is handed to a server that its distributor does not reach.
    UnreachedServer,
    /// An upload counts as read when its head is.
    BodiesAreNotFollowed,
    /// A node keeps as many packets as come.
    NoLimits,
    /// Once all clients are content a node looks at no deadline.
    NothingTimesOut,
    /// What shows that a server does not work user space does not hear.
    SignsAreNotTold,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::NewsOutOfOrder,
        Self::WrongServer,
        Self::TakesTooLittle,
        Self::NoLeases,
        Self::BegunIsUnknown,
        Self::AnyServer,
        Self::OldPools,
        Self::EndsAtOnce,
        Self::TakenIsNotTold,
        Self::SilentIsHeard,
        Self::WallClocks,
        Self::ChangesAreNotShared,
        Self::NothingIsRecalled,
        Self::UnreachedServer,
        Self::BodiesAreNotFollowed,
        Self::NoLimits,
        Self::NothingTimesOut,
        Self::SignsAreNotTold,
    ];
}
