//! Messages to bytes and back: a version, a kind, and the message's fields in postcard's encoding.
//! Called by the session; knows no connection. Every limit of `message` is kept here, in both
//! directions, so that nothing behind it meets a list that is too long or a node that cannot be.

use baton_cluster::{Guide, NodeId, PoolHash};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::message::{
    Answer, Ask, CHANGES_MAX, Close, DOUBTS_MAX, Doubts, ENDS_MAX, Grant, Guidance, Heir, Kind, LOST_MAX,
    Live, Load, MAPPED_MAX, MESSAGE_BYTES_MAX, MOVES_MAX, Mac, Mapped, MappedTarget, Message, Owned,
    PROTOCOL_VERSION, Probed, Push, QUESTIONS_MAX, Ready, Recall, Recalled, SERVERS_MAX, STATUS_BYTES_MAX,
    StatusReply, StatusRequest, Taken, Term, Update, Whose,
};
use crate::word::{Bye, Heartbeat, Hello, NAME_BYTES_MAX};

/// How many choices a [`Guide`] has.
const GUIDES: u32 = 3;

/// All of something.
const PERCENT_MAX: u8 = 100;

/// How many choices a [`Bye`] has.
const BYES: u32 = 2;

/// What one frame of an established session holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Who the peer is: the first word in each direction.
    Hello(Hello),
    /// A sign of life.
    Heartbeat(Heartbeat),
    /// The peer is about to close, and why.
    Bye(Bye),
    /// What one component says to another.
    Message(Message),
}

impl Message {
    /// Appends the encoded message to `out`.
    ///
    /// # Errors
    /// [`Error::TooMany`] or [`Error::BadNode`] and the like if the message breaks one of its own
    /// limits; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        check(self)?;
        match self {
            Message::Ask(body) => put(Kind::Ask, body, out),
            Message::Answer(body) => put(Kind::Answer, body, out),
            Message::Push(body) => put(Kind::Push, body, out),
            Message::Guide(body) => put(Kind::Guide, body, out),
            Message::Load(body) => put(Kind::Load, body, out),
            Message::Update(body) => put(Kind::Update, body, out),
            Message::Close(body) => put(Kind::Close, body, out),
            Message::Live(body) => put(Kind::Live, body, out),
            Message::StatusRequest(body) => put(Kind::StatusRequest, body, out),
            Message::StatusReply(body) => put(Kind::StatusReply, body, out),
            Message::Taken(body) => put(Kind::Taken, body, out),
            Message::Term(body) => put(Kind::Term, body, out),
            Message::Grant(body) => put(Kind::Grant, body, out),
            Message::Heir(body) => put(Kind::Heir, body, out),
            Message::Probed(body) => put(Kind::Probed, body, out),
            Message::Mac(body) => put(Kind::Mac, body, out),
            Message::Ready(body) => put(Kind::Ready, body, out),
            Message::Mapped(body) => put(Kind::Mapped, body, out),
            Message::Recall(body) => put(Kind::Recall, body, out),
            Message::Recalled(body) => put(Kind::Recalled, body, out),
            Message::Doubts(body) => put(Kind::Doubts, body, out),
            Message::Whose(body) => put(Kind::Whose, body, out),
            Message::Owned(body) => put(Kind::Owned, body, out),
        }
    }

    /// Reads one message, which must fill `bytes` exactly.
    ///
    /// # Errors
    /// Says what is wrong with the bytes: version, kind, a field, a limit, bytes left over.
    pub fn decode(bytes: &[u8]) -> Result<Message, Error> {
        match Word::decode(bytes)? {
            Word::Message(message) => Ok(message),
            Word::Hello(_) => Err(Error::OutOfPlace { kind: Kind::Hello }),
            Word::Heartbeat(_) => Err(Error::OutOfPlace { kind: Kind::Heartbeat }),
            Word::Bye(_) => Err(Error::OutOfPlace { kind: Kind::Bye }),
        }
    }
}

impl Word {
    /// Appends the encoded word to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Word::Hello(body) => {
                check_hello(body)?;
                put(Kind::Hello, body, out)
            }
            Word::Heartbeat(body) => put(Kind::Heartbeat, body, out),
            Word::Bye(body) => put(Kind::Bye, body, out),
            Word::Message(message) => message.encode(out),
        }
    }

    /// Reads one word, which must fill `bytes` exactly.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Word, Error> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Error::TooLong { bytes: bytes.len() });
        }
        let [version, number, body @ ..] = bytes else { return Err(Error::Short { bytes: bytes.len() }) };
        if *version != PROTOCOL_VERSION {
            return Err(Error::Version { theirs: *version });
        }
        let kind = Kind::from_number(*number).ok_or(Error::UnknownKind { number: *number })?;
        let word = match kind {
            Kind::Hello => Word::Hello(take(kind, body)?),
            Kind::Heartbeat => Word::Heartbeat(take(kind, body)?),
            Kind::Bye => Word::Bye(take(kind, body)?),
            Kind::Ask => Word::Message(Message::Ask(take::<Ask>(kind, body)?)),
            Kind::Answer => Word::Message(Message::Answer(take::<Answer>(kind, body)?)),
            Kind::Push => Word::Message(Message::Push(take::<Push>(kind, body)?)),
            Kind::Guide => Word::Message(Message::Guide(take::<Guidance>(kind, body)?)),
            Kind::Load => Word::Message(Message::Load(take::<Load>(kind, body)?)),
            Kind::Update => Word::Message(Message::Update(take::<Update>(kind, body)?)),
            Kind::Close => Word::Message(Message::Close(take::<Close>(kind, body)?)),
            Kind::Live => Word::Message(Message::Live(take::<Live>(kind, body)?)),
            Kind::StatusRequest => Word::Message(Message::StatusRequest(take::<StatusRequest>(kind, body)?)),
            Kind::StatusReply => Word::Message(Message::StatusReply(take::<StatusReply>(kind, body)?)),
            Kind::Taken => Word::Message(Message::Taken(take::<Taken>(kind, body)?)),
            Kind::Term => Word::Message(Message::Term(take::<Term>(kind, body)?)),
            Kind::Grant => Word::Message(Message::Grant(take::<Grant>(kind, body)?)),
            Kind::Heir => Word::Message(Message::Heir(take::<Heir>(kind, body)?)),
            Kind::Probed => Word::Message(Message::Probed(take::<Probed>(kind, body)?)),
            Kind::Mac => Word::Message(Message::Mac(take::<Mac>(kind, body)?)),
            Kind::Ready => Word::Message(Message::Ready(take::<Ready>(kind, body)?)),
            Kind::Mapped => Word::Message(Message::Mapped(take::<Mapped>(kind, body)?)),
            Kind::Recall => Word::Message(Message::Recall(take::<Recall>(kind, body)?)),
            Kind::Recalled => Word::Message(Message::Recalled(take::<Recalled>(kind, body)?)),
            Kind::Doubts => Word::Message(Message::Doubts(take::<Doubts>(kind, body)?)),
            Kind::Whose => Word::Message(Message::Whose(take::<Whose>(kind, body)?)),
            Kind::Owned => Word::Message(Message::Owned(take::<Owned>(kind, body)?)),
        };
        match &word {
            Word::Hello(hello) => check_hello(hello)?,
            Word::Message(message) => check(message)?,
            Word::Heartbeat(_) | Word::Bye(_) => (),
        }
        Ok(word)
    }
}

/// Appends version, kind and body; leaves `out` as it was on an error.
fn put<T: Serialize>(kind: Kind, body: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    out.extend([PROTOCOL_VERSION, kind as u8]);
    let written =
        postcard::to_io(body, &mut *out).map(|_| ()).map_err(|source| Error::Field { kind, source });
    let bytes = out.len() - start;
    let fits = written.and(if bytes > MESSAGE_BYTES_MAX { Err(Error::TooLong { bytes }) } else { Ok(()) });
    if fits.is_err() {
        out.truncate(start);
    }
    fits
}

/// Reads a body that must fill `bytes` exactly.
fn take<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, Error> {
    let (body, rest) = postcard::take_from_bytes(bytes).map_err(|cause| match cause {
        // Custom refusals while reading are those of `at_most`, and serde's for a choice that does
        // not exist; the only kinds with choices have no list, or name it by its choice.
        postcard::Error::SerdeDeCustom => no_choice(kind, bytes).unwrap_or(Error::TooMany { kind }),
        source => Error::Field { kind, source },
    })?;
    if rest.is_empty() { Ok(body) } else { Err(Error::LeftOver { kind, bytes: rest.len() }) }
}

/// The error for a choice that this version does not know, if that is what is wrong.
fn no_choice(kind: Kind, bytes: &[u8]) -> Option<Error> {
    let (choice, choices) = match kind {
        Kind::Guide => (postcard::take_from_bytes::<(PoolHash, u32)>(bytes).ok()?.0.1, GUIDES),
        Kind::Bye => (postcard::take_from_bytes::<u32>(bytes).ok()?.0, BYES),
        _ => return None,
    };
    (choice >= choices).then_some(Error::UnknownChoice { kind, choice })
}

/// Refuses what breaks a limit of its type.
fn check(message: &Message) -> Result<(), Error> {
    let kind = message.kind();
    match message {
        Message::Ask(ask) => {
            few(kind, ask.questions.len(), QUESTIONS_MAX)?;
            ask.questions.iter().try_for_each(|question| question.at.map_or(Ok(()), |at| node(kind, at)))
        }
        Message::Answer(answer) => {
            few(kind, answer.answers.len(), QUESTIONS_MAX)?;
            answer.answers.iter().try_for_each(|verdict| {
                verdict.server.map_or(Ok(()), |server| node(kind, server))?;
                verdict.keep.as_ref().map_or(Ok(()), |keep| nodes(kind, keep, SERVERS_MAX))
            })
        }
        Message::Push(push) => {
            few(kind, push.changes.len(), CHANGES_MAX)?;
            push.changes.iter().try_for_each(|change| nodes(kind, &change.servers, SERVERS_MAX))
        }
        Message::Guide(guidance) => match &guidance.guide {
            Guide::AskAlways | Guide::Cached { .. } => Ok(()),
            Guide::Rota(rota) => nodes(kind, rota, Guide::ROTA_MAX),
        },
        Message::Update(update) => {
            few(kind, update.moves.len(), MOVES_MAX)?;
            update.moves.iter().try_for_each(|moved| {
                node(kind, moved.server)?;
                node(kind, moved.from)
            })
        }
        Message::Doubts(doubts) => {
            few(kind, doubts.servers.len(), DOUBTS_MAX)?;
            doubts.servers.iter().try_for_each(|doubted| node(kind, doubted.server))
        }
        Message::Close(close) => few(kind, close.ends.len(), ENDS_MAX),
        Message::Whose(whose) => few(kind, whose.lost.len(), LOST_MAX),
        Message::Owned(owned) => {
            few(kind, owned.claims.len(), LOST_MAX)?;
            owned.claims.iter().flatten().try_for_each(|claim| node(kind, claim.owner))
        }
        Message::Mapped(mapped) => targets(kind, &mapped.targets),
        Message::Recalled(recalled) => targets(kind, &recalled.targets),
        Message::Live(live) => nodes(kind, &live.nodes, NodeId::MAX_NODES),
        Message::StatusReply(reply) => few(kind, reply.body.len(), STATUS_BYTES_MAX),
        Message::Load(load) if load.pressure > PERCENT_MAX => {
            Err(Error::BadPercent { kind, percent: load.pressure })
        }
        Message::Load(_)
        | Message::StatusRequest(_)
        | Message::Taken(_)
        | Message::Term(_)
        | Message::Grant(_)
        | Message::Heir(_)
        | Message::Probed(_)
        | Message::Mac(_)
        | Message::Ready(_)
        | Message::Recall(_) => Ok(()),
    }
}

fn targets(kind: Kind, targets: &[MappedTarget]) -> Result<(), Error> {
    few(kind, targets.len(), MAPPED_MAX)?;
    targets.iter().try_for_each(|target| nodes(kind, &target.servers, SERVERS_MAX))
}

fn check_hello(hello: &Hello) -> Result<(), Error> {
    few(Kind::Hello, hello.cluster.len(), NAME_BYTES_MAX)?;
    few(Kind::Hello, hello.name.len(), NAME_BYTES_MAX)?;
    few(Kind::Hello, hello.software.len(), NAME_BYTES_MAX)?;
    few(Kind::Hello, hello.nodes.len(), NodeId::MAX_NODES)?;
    node(Kind::Hello, hello.node)
}

fn few(kind: Kind, count: usize, max: usize) -> Result<(), Error> {
    if count <= max { Ok(()) } else { Err(Error::TooMany { kind }) }
}

fn nodes(kind: Kind, list: &[NodeId], max: usize) -> Result<(), Error> {
    few(kind, list.len(), max)?;
    list.iter().try_for_each(|id| node(kind, *id))
}

fn node(kind: Kind, id: NodeId) -> Result<(), Error> {
    if id.index() < NodeId::MAX_NODES { Ok(()) } else { Err(Error::BadNode { kind, id: id.0 }) }
}

#[cfg(test)]
mod tests;
