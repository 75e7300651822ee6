//! Who may connect.

use hashbrown::HashMap;

use super::packet::Connect;

/// Names with the hashes of their passwords, and whether one may come without.
#[derive(Default)]
pub struct Access {
    users: HashMap<String, blake3::Hash>,
    anonymous: bool,
    /// Compared where the name is unknown, so that this takes as long as where the password is wrong.
    nobody: Option<blake3::Hash>,
}

impl Access {
    /// Takes names and passwords.
    pub fn new(users: impl IntoIterator<Item = (String, String)>, anonymous: bool) -> Self {
        let users: HashMap<_, _> =
            users.into_iter().map(|(name, password)| (name, blake3::hash(password.as_bytes()))).collect();
        Self { nobody: users.values().next().copied(), users, anonymous }
    }

    /// Whether a client may come in. `certified`: it has shown a certificate that was demanded, which is proof enough
    /// where there are no users.
    pub fn admits(&self, connect: &Connect<'_>, certified: bool) -> bool {
        let free = self.anonymous || (certified && self.users.is_empty());
        let Some(name) = connect.user.filter(|_| !self.users.is_empty()) else { return free };
        let given = blake3::hash(connect.password.unwrap_or_default());
        let known = self.users.get(name);
        // Hashes of this type are compared in constant time, whatever differs.
        let same = known.or(self.nobody.as_ref()).is_some_and(|wanted| *wanted == given);
        same && known.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::mqtt_wire::Protocol;

    #[test]
    fn names_and_passwords() {
        let connect = |user, password| Connect {
            protocol: Protocol::V5,
            clean: true,
            keep_alive: 0,
            client_id: "a",
            session_expiry: 0,
            will: None,
            user,
            password,
        };
        let users = || [("press".to_owned(), "secret".to_owned()), ("oven".to_owned(), String::new())];
        for (user, password, admitted, with_anonymous) in [
            (Some("press"), Some(b"secret".as_slice()), true, true),
            (Some("press"), Some(b"secreT".as_slice()), false, false),
            (Some("press"), None, false, false),
            (Some("oven"), None, true, true),
            (Some("lathe"), Some(b"secret".as_slice()), false, false),
            (None, None, false, true),
        ] {
            let connect = connect(user, password);
            let certified = Access::new(users(), false).admits(&connect, true);
            assert_eq!(certified, admitted, "a certificate does not stand for a password: {user:?}");
            assert_eq!(Access::new(users(), false).admits(&connect, false), admitted, "{user:?}");
            assert_eq!(Access::new(users(), true).admits(&connect, false), with_anonymous, "{user:?}");
            assert!(Access::new([], true).admits(&connect, false), "nobody asks who it is");
            assert!(Access::new([], false).admits(&connect, true));
            assert!(!Access::new([], false).admits(&connect, false));
        }
    }
}
