//! Lists that are read with a limit: a message that claims a longer one is refused before memory is set aside for it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

/// Deserializes a list of at most `MAX` items, setting aside memory for no more than that however
/// long the list claims to be.
///
/// # Errors
/// When the list is longer, or an item is not what it should be.
pub fn at_most<'de, const MAX: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct AtMost<const MAX: usize, T>(PhantomData<T>);

    impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for AtMost<MAX, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let expected = items.size_hint().unwrap_or(0);
            if expected > MAX {
                return Err(A::Error::custom("too many"));
            }
            let mut list = Vec::with_capacity(expected);
            while let Some(item) = items.next_element()? {
                if list.len() == MAX {
                    return Err(A::Error::custom("too many"));
                }
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(AtMost::<MAX, T>(PhantomData))
}

/// [`at_most`] for a list that may be absent.
///
/// # Errors
/// As of [`at_most`].
pub fn maybe_at_most<'de, const MAX: usize, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Bounded<const MAX: usize, T>(Vec<T>);

    impl<'de, const MAX: usize, T: Deserialize<'de>> Deserialize<'de> for Bounded<MAX, T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            at_most::<MAX, T, D>(deserializer).map(Bounded)
        }
    }

    Ok(Option::<Bounded<MAX, T>>::deserialize(deserializer)?.map(|bounded| bounded.0))
}
