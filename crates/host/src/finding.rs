//! What a judgement of a host consists of: findings, each with its remedy.

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Baton works, but worse, or perhaps; or it could not be seen.
    Warning,
    /// Baton, or this node's part in it, does not work.
    Error,
}

/// One thing that was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about; fixed, for scripts.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found, and what follows from it.
    pub what: String,
    /// The command that mends it.
    pub mend: Option<String>,
    /// [`apply`](crate::apply) mends it.
    pub fixable: bool,
}

impl Finding {
    pub(crate) fn ok(id: &'static str, what: impl Into<String>) -> Self {
        Self { id, severity: Severity::Ok, what: what.into(), mend: None, fixable: false }
    }

    pub(crate) fn warning(id: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, mend: Some(mend.into()), ..Self::ok(id, what) }
    }

    pub(crate) fn error(id: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { severity: Severity::Error, ..Self::warning(id, what, mend) }
    }

    pub(crate) fn fixable(self) -> Self {
        Self { fixable: true, ..self }
    }
}
