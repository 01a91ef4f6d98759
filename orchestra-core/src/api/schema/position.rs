//! Places in the objects of a kind, for what goes by the type that is there.

use super::{Arena, Schema, Type};

/// A place in the objects of a kind; where the schema knows no more, all that lies deeper is untyped.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    arena: &'a Arena,
    at: Type,
}

impl Schema {
    /// The place of the whole object.
    #[must_use]
    pub fn root(&self) -> Position<'_> {
        Position { arena: &self.arena, at: self.root }
    }
}

impl<'a> Position<'a> {
    /// The name of the type here, such as `io.k8s.api.core.v1.PodSpec`; none unless it is an object with known fields.
    #[must_use]
    pub fn definition(self) -> Option<&'a str> {
        match self.at {
            Type::Object(index) => Some(&self.arena.object(index).definition),
            _ => None,
        }
    }

    /// The place of a field, or of an entry of a map.
    #[must_use]
    pub fn field(self, name: &str) -> Self {
        let at = match self.at {
            Type::Object(index) => self.arena.object(index).field(name).unwrap_or(Type::Any),
            Type::Map(item) => self.arena.item(item),
            _ => Type::Any,
        };
        Self { at, ..self }
    }

    /// The place of the items of a list.
    #[must_use]
    pub fn item(self) -> Self {
        let at = match self.at {
            Type::List(item) => self.arena.item(item),
            _ => Type::Any,
        };
        Self { at, ..self }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;

    use super::Schema;

    #[test]
    fn a_place_knows_its_type() {
        let schema = Schema::of::<Deployment>();
        let pod = schema.root().field("spec").field("template").field("spec");
        assert_eq!(pod.definition(), Some("io.k8s.api.core.v1.PodSpec"));
        assert_eq!(pod.field("containers").definition(), None);
        assert_eq!(pod.field("containers").item().definition(), Some("io.k8s.api.core.v1.Container"));
        assert_eq!(pod.field("nothing").field("here").item().definition(), None);
    }
}
