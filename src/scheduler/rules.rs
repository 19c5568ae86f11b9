//! The rules of each engine in words, made from the settings and rule sets that the schedulers run
//! with: the table of `docs/rules.md` and of `servesim list rules`.
//!
//! Each scheduler's own file says what its rules mean, from the very values that its code reads, and
//! takes a rule set apart field by field: a field more does not compile until it has words.

/// Declares the rules that every engine must have words for, with their headings.
macro_rules! rule_texts {
    ($($field:ident = $heading:literal),+ $(,)?) => {
        /// One engine's rules in words; an engine says something on every one.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct RuleTexts { $(pub $field: String),+ }

        impl RuleTexts {
            /// Headings and texts, in the order of the table.
            pub fn rows(&self) -> Vec<(&'static str, &str)> {
                vec![$(($heading, self.$field.as_str())),+]
            }
        }
    };
}

rule_texts! {
    door = "refused at the door",
    order = "order of admission",
    room = "room that a newcomer must find",
    batching = "prompts and decodes",
    interruption = "when decoding makes way",
    budget = "tokens of a step",
    chunking = "long prompts",
    seats = "sequences at once",
    watermark = "kept free at admission",
    preemption = "when memory runs out",
    prefix_cache = "prefix cache",
    free_order = "freed blocks return",
    depth = "steps in flight",
    deadline = "deadlines",
    abort = "a client that goes away",
}
