//! Topic patterns of the pipeline file: the filters they make, and which topics fit them. Pure.

use crate::registry::Problem;

/// Turns topic patterns into MQTT filters, checking them.
pub fn filters(topics: &[String], problems: &mut Vec<Problem>) -> Vec<String> {
    let mut tags_of_first: Option<Vec<&str>> = None;
    let mut filters = Vec::new();
    for (index, topic) in topics.iter().enumerate() {
        let at = format!("topics[{index}]");
        let mut tags = Vec::new();
        // A shared subscription is `$share/<group>/<filter>`.
        let levels: Vec<&str> = topic.split('/').collect();
        let mut filter = Vec::with_capacity(levels.len());
        for (level, text) in levels.iter().enumerate() {
            match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                Some(name) if !name.is_empty() && !name.contains(['{', '}', '.']) => {
                    tags.push(name);
                    filter.push("+");
                }
                Some(name) => {
                    problems.push(Problem::new(&at, format!("`{{{name}}}` is not the name of a tag")))
                }
                None if text.contains(['{', '}']) => problems.push(Problem::new(
                    &at,
                    format!("`{text}`: a tag in braces is a whole level between two `/`"),
                )),
                None if text.contains('+') && *text != "+" => {
                    problems.push(Problem::new(&at, format!("`{text}`: `+` stands alone between two `/`")));
                }
                None if text.contains('#') && (*text != "#" || level + 1 != levels.len()) => {
                    problems.push(Problem::new(&at, "`#` stands alone at the end of a topic"));
                }
                None => filter.push(text),
            }
        }
        if topic.is_empty() || topic.contains('\0') {
            problems.push(Problem::new(&at, "a topic is not empty and has no NUL"));
        }
        match &tags_of_first {
            Some(first) if *first != tags => problems.push(
                Problem::new(&at, format!("this topic names the tags {tags:?}, the first one {first:?}"))
                    .help("name the same tags in the same order, or make two sources"),
            ),
            Some(_) => {}
            None => tags_of_first = Some(tags),
        }
        filters.push(filter.join("/"));
    }
    filters
}

/// Filters, ready to say whether a topic fits one of them.
#[derive(Debug, Clone, Default)]
pub struct TopicFilters(Vec<Vec<String>>);

impl TopicFilters {
    /// Takes what [`filters`] gave.
    pub fn new(filters: &[String]) -> Self {
        Self(filters.iter().map(|filter| filter.split('/').map(str::to_owned).collect()).collect())
    }

    /// Whether a topic fits any of them, as a broker would decide: `+` is one level, `#` all that follow and
    /// the level before them, and neither stands for a first level that begins with `$`
    /// (MQTT 5.0 section 4.7).
    pub fn fit(&self, topic: &str) -> bool {
        self.0.iter().any(|filter| fits(filter, topic))
    }
}

fn fits(filter: &[String], topic: &str) -> bool {
    let mut levels = topic.split('/');
    for (index, wanted) in filter.iter().enumerate() {
        let hidden = index == 0 && topic.starts_with('$');
        match (wanted.as_str(), levels.next()) {
            ("#", _) => return !hidden,
            (_, None) => return false,
            ("+", Some(_)) if !hidden => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_become_filters() {
        let mut problems = Vec::new();
        let topics = ["plant/{line}/{device}/telemetry".to_owned(), "other/{line}/{device}/#".to_owned()];
        assert_eq!(filters(&topics, &mut problems), ["plant/+/+/telemetry", "other/+/+/#"]);
        assert!(problems.is_empty());
        for wrong in ["a/b{c}", "a/#/b", "a/b+", "", "{}", "a/{x.y}"] {
            let mut problems = Vec::new();
            filters(&[wrong.to_owned()], &mut problems);
            assert!(!problems.is_empty(), "{wrong}");
        }
        let mut problems = Vec::new();
        filters(&["a/{x}".to_owned(), "b/{y}".to_owned()], &mut problems);
        assert_eq!(problems[0].path, "topics[1]");
    }

    #[test]
    fn topics_fit_as_a_broker_would_say() {
        for (filter, fitting, others) in [
            ("a/b", vec!["a/b"], vec!["a", "a/b/c", "a/B", "/a/b", "a/b/"]),
            ("a/+/c", vec!["a/b/c", "a//c"], vec!["a/b", "a/b/d", "a/b/c/d"]),
            ("a/#", vec!["a", "a/b", "a/b/c", "a/"], vec!["b", "aa"]),
            ("#", vec!["a", "/", "a/b"], vec!["$SYS/x"]),
            ("+/x", vec!["a/x", "/x"], vec!["$SYS/x", "x"]),
            ("$SYS/#", vec!["$SYS/x"], vec!["SYS/x"]),
        ] {
            let filters = TopicFilters::new(&["never/this".to_owned(), filter.to_owned()]);
            for topic in fitting {
                assert!(filters.fit(topic), "{topic} fits {filter}");
            }
            for topic in others {
                assert!(!filters.fit(topic), "{topic} does not fit {filter}");
            }
        }
    }
}
