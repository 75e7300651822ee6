//! Reading JSON Schemas: what a value may be, in the words and examples that messages and the reference use. Pure.

use serde_json::Value as Json;

/// References and alternatives are followed this deep and no deeper: a schema may contain itself.
const DEPTH_MAX: usize = 8;

/// A type is put into words this deep: a list of lists of lists says enough.
const WORDS_DEPTH_MAX: usize = 3;

/// A schema and the document that its references lead into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'s> {
    pub schema: &'s Json,
    pub root: &'s Json,
}

impl<'s> Shape<'s> {
    /// A whole document.
    pub fn root(root: &'s Json) -> Self {
        Self { schema: root, root }
    }

    pub fn of(self, schema: &'s Json) -> Self {
        Self { schema, ..self }
    }

    /// The schema behind a reference.
    pub fn resolved(self) -> Self {
        let mut shape = self;
        for _ in 0..DEPTH_MAX {
            let target = shape.schema["$ref"]
                .as_str()
                .and_then(|reference| reference.strip_prefix('#'))
                .and_then(|pointer| self.root.pointer(pointer));
            match (target, shape.schema["allOf"].as_array().map(Vec::as_slice)) {
                (Some(target), _) => shape = self.of(target),
                (None, Some([only])) => shape = self.of(only),
                _ => break,
            }
        }
        shape
    }

    /// The forms that the value may have, each without a reference; `null` is none of them, TOML has no null.
    pub fn alternatives(self) -> Vec<Self> {
        let mut found = Vec::new();
        self.collect_alternatives(DEPTH_MAX, &mut found);
        found
    }

    fn collect_alternatives(self, depth: usize, found: &mut Vec<Self>) {
        let shape = self.resolved();
        let several = ["oneOf", "anyOf"].into_iter().find_map(|key| shape.schema[key].as_array());
        match several {
            Some(several) if depth > 0 => {
                several.iter().for_each(|one| shape.of(one).collect_alternatives(depth - 1, found));
            }
            _ if shape.schema["type"] == "null" => {}
            _ => found.push(shape),
        }
    }

    /// The names of the JSON types the value may have, without `null`; none named means any.
    pub fn types(self) -> Vec<&'s str> {
        match &self.schema["type"] {
            Json::String(one) => vec![one],
            Json::Array(several) => {
                several.iter().filter_map(Json::as_str).filter(|one| *one != "null").collect()
            }
            _ if self.schema["properties"].is_object() => vec!["object"],
            _ => match self.constants().first() {
                Some(Json::String(_)) => vec!["string"],
                _ => Vec::new(),
            },
        }
    }

    /// The only values there may be, if there are such.
    pub fn constants(self) -> Vec<&'s Json> {
        match (self.schema.get("const"), self.schema["enum"].as_array()) {
            (Some(constant), _) => vec![constant],
            (None, Some(several)) => several.iter().filter(|one| !one.is_null()).collect(),
            (None, None) => Vec::new(),
        }
    }

    pub fn format(self) -> &'s str {
        self.schema["format"].as_str().unwrap_or("")
    }

    /// The keys of a table with what each may be.
    pub fn properties(self) -> impl Iterator<Item = (&'s str, Self)> {
        let properties = self.schema["properties"].as_object();
        properties.into_iter().flatten().map(move |(key, schema)| (key.as_str(), self.of(schema)))
    }

    pub fn property(self, key: &str) -> Option<Self> {
        self.schema["properties"].get(key).map(|schema| self.of(schema))
    }

    /// The keys that must be there.
    pub fn required(self) -> impl Iterator<Item = &'s str> {
        self.schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str)
    }

    pub fn description(self) -> &'s str {
        self.schema["description"].as_str().unwrap_or("")
    }

    /// The key that tells the alternatives apart, e.g. `type`: every one of them has it with fixed values.
    pub fn discriminator(alternatives: &[Self]) -> Option<&'s str> {
        let (first, rest) = alternatives.split_first()?;
        first
            .properties()
            .find(|(key, _)| {
                let fixed = |one: &Self| one.property(key).is_some_and(|value| !value.constants().is_empty());
                !rest.is_empty() && fixed(first) && rest.iter().all(fixed)
            })
            .map(|(key, _)| key)
    }

    /// The one key of a table that has one key and no other, e.g. `env` in `{ env = "NAME" }`.
    pub fn only_key(self) -> Option<&'s str> {
        let mut keys = self.properties().map(|(key, _)| key);
        let only = keys.next().filter(|_| keys.next().is_none())?;
        (self.schema["additionalProperties"] == false && self.required().eq([only])).then_some(only)
    }

    /// What the value may be, in words: `a duration`, `a list of text`, `"a" or "b"`.
    pub fn expected(self) -> String {
        self.expected_to(WORDS_DEPTH_MAX)
    }

    fn expected_to(self, depth: usize) -> String {
        let alternatives = self.alternatives();
        let mut words: Vec<String> = Vec::new();
        let constants: Vec<&Json> = alternatives.iter().flat_map(|one| one.constants()).collect();
        for constant in constants {
            words.push(inline(constant));
        }
        for one in alternatives.iter().filter(|one| one.constants().is_empty()) {
            words.extend(one.types().into_iter().map(|name| one.expected_type(name, depth)));
        }
        let mut seen: Vec<String> = Vec::new();
        words.retain(|word| {
            let new = !seen.contains(word);
            seen.push(word.clone());
            new
        });
        match words.as_slice() {
            [] => "any value".to_owned(),
            words => either(words),
        }
    }

    fn expected_type(self, name: &str, depth: usize) -> String {
        match (name, self.format()) {
            ("string", "duration") => "a duration".to_owned(),
            ("string", "size") => "a size".to_owned(),
            ("string", "room") => "a size or \"off\"".to_owned(),
            ("string", _) => "text".to_owned(),
            ("integer", _) => "an integer".to_owned(),
            ("number", _) => "a number".to_owned(),
            ("boolean", _) => "true/false".to_owned(),
            ("array", _) if depth > 0 && self.schema["items"].is_object() => {
                format!("a list of {}", self.of(&self.schema["items"]).expected_inside(depth - 1))
            }
            ("array", _) => "a list".to_owned(),
            ("object", _) if depth > 0 && self.schema["additionalProperties"].is_object() => {
                format!(
                    "a table of {}",
                    self.of(&self.schema["additionalProperties"]).expected_inside(depth - 1)
                )
            }
            ("object", _) => "a table".to_owned(),
            (other, _) => other.to_owned(),
        }
    }

    /// The same in the plural, for what lists and tables hold.
    fn expected_inside(self, depth: usize) -> String {
        let one = self.expected_to(depth);
        if one.contains(" or ") {
            return format!("({one})");
        }
        let one = one.strip_prefix("an ").or(one.strip_prefix("a ")).unwrap_or(&one);
        let (head, of) =
            one.split_once(" of ").map_or((one, String::new()), |(head, of)| (head, format!(" of {of}")));
        match head {
            "duration" | "size" | "integer" | "number" | "table" | "list" => format!("{head}s{of}"),
            _ => one.to_owned(),
        }
    }

    /// A value of this shape as it would stand in a file, for messages.
    pub fn sample(self) -> String {
        self.sample_to(3)
    }

    fn sample_to(self, depth: usize) -> String {
        let outer = self;
        let alternatives = self.alternatives();
        let Some(first) = alternatives.first().copied() else { return "…".to_owned() };
        let written = [outer, first].iter().find_map(|one| {
            one.schema["examples"].get(0).or_else(|| one.schema.get("default").filter(|d| !d.is_null()))
        });
        if let Some(written) = written.or_else(|| first.constants().first().copied()) {
            return inline(written);
        }
        match first.types().first().copied() {
            Some("string") => "\"…\"".to_owned(),
            Some("integer") => first.schema["minimum"].as_i64().unwrap_or(1).max(1).to_string(),
            Some("number") => "1.0".to_owned(),
            Some("boolean") => "true".to_owned(),
            Some("array") if depth > 0 && first.schema["items"].is_object() => {
                format!("[{}]", first.of(&first.schema["items"]).sample_to(depth - 1))
            }
            Some("array") => "[…]".to_owned(),
            Some("object") if depth > 0 => {
                let keys: Vec<String> = first
                    .required()
                    .filter_map(|key| Some(format!("{key} = {}", first.property(key)?.sample_to(depth - 1))))
                    .collect();
                if keys.is_empty() { "{ … }".to_owned() } else { format!("{{ {} }}", keys.join(", ")) }
            }
            _ => "…".to_owned(),
        }
    }
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn either(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A JSON value as TOML writes it on one line.
pub(super) fn inline(value: &Json) -> String {
    match value {
        Json::Array(values) => format!("[{}]", values.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Json::Object(map) if map.is_empty() => "{}".to_owned(),
        Json::Object(map) => {
            let keys: Vec<String> = map
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| format!("{key} = {}", inline(value)))
                .collect();
            format!("{{ {} }}", keys.join(", "))
        }
        other => other.to_string(),
    }
}

/// The first sentence or line of a description.
pub(super) fn first_sentence(description: &str) -> String {
    let paragraph = description.split("\n\n").next().unwrap_or("").replace('\n', " ");
    match paragraph.find(". ") {
        Some(end) => paragraph[..=end].to_owned(),
        None => paragraph,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shapes_in_words_and_samples() {
        let root = json!({ "$defs": {
            "Loop": { "type": "array", "items": { "$ref": "#/$defs/Loop" } },
            "Self": { "$ref": "#/$defs/Self" },
            "Alt": { "anyOf": [{ "$ref": "#/$defs/Alt" }, { "type": "string" }] },
            "Secret": { "oneOf": [{ "type": "object", "properties": { "env": { "type": "string" } },
                "required": ["env"], "additionalProperties": false }] },
        }});
        for (schema, expected, sample) in [
            (json!({ "type": "string" }), "text", "\"…\""),
            (
                json!({ "type": ["string", "null"], "format": "duration", "examples": ["10s"] }),
                "a duration",
                "\"10s\"",
            ),
            (json!({ "type": "integer", "minimum": 3 }), "an integer", "3"),
            (json!({ "type": "number", "default": 0.5 }), "a number", "0.5"),
            (json!({ "enum": ["a", "b", null] }), "\"a\" or \"b\"", "\"a\""),
            (
                json!({ "oneOf": [{ "enum": ["c"] }, { "const": "a" }, { "type": "null" }] }),
                "\"c\" or \"a\"",
                "\"c\"",
            ),
            (json!({ "type": "array", "items": { "type": "string" } }), "a list of text", "[\"…\"]"),
            (json!({ "type": "array", "items": { "type": "integer" } }), "a list of integers", "[1]"),
            (
                json!({ "anyOf": [{ "$ref": "#/$defs/Secret" }, { "type": "null" }] }),
                "a table",
                "{ env = \"…\" }",
            ),
            (json!(true), "any value", "…"),
            (json!({ "$ref": "#/$defs/nowhere" }), "any value", "…"),
        ] {
            let shape = Shape { schema: &schema, root: &root };
            assert_eq!((shape.expected().as_str(), shape.sample().as_str()), (expected, sample), "{schema}");
        }
        for endless in ["Loop", "Self", "Alt"] {
            let schema = json!({ "$ref": format!("#/$defs/{endless}") });
            let shape = Shape { schema: &schema, root: &root };
            assert!(!shape.expected().is_empty() && !shape.sample().is_empty());
        }
    }

    #[test]
    fn values_are_written_as_toml() {
        let value = json!({ "a": [1, "x", true], "b": { "c": 1.5, "d": null }, "e": {} });
        assert_eq!(inline(&value), "{ a = [1, \"x\", true], b = { c = 1.5 }, e = {} }");
    }
}
