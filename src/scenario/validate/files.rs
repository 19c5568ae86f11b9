//! What is wrong inside a file that the scenario names, shown where it stands there: GPUs, instances,
//! models, deployment profiles.

use std::ops::Range;
use std::path::Path;

use super::super::diagnostic::{Diagnostic, SourceId, Span};
use super::super::document::{self, Table};
use super::Context;
use crate::cost::profile::{FORMAT, ProfileError};
use crate::hardware::CatalogError;
use crate::model::ModelError;
use crate::named::UnknownName;

/// A file, and the key that names it.
pub(super) struct Named<'a> {
    pub key: &'a str,
    pub path: &'a Path,
    pub bytes: &'a [u8],
}

/// One thing that is wrong in it.
struct Fault {
    title: String,
    place: Place,
    label: String,
    help: String,
}

enum Place {
    Bytes(Range<usize>),
    /// Of a TOML file, the value at a dotted path, or the table nearest to it.
    Path(String),
    Nowhere,
}

impl Place {
    fn maybe(bytes: Option<Range<usize>>) -> Self {
        bytes.map_or(Self::Nowhere, Self::Bytes)
    }
}

const GPU_HELP: &str = "a GPU file has `product` and the tables [memory], [peak], [chip] and \
                        [links] as those of hardware/gpus have; `servesim calibrate --device` \
                        writes one";
const INSTANCE_HELP: &str = "an instance file has `gpu` and `num-gpus`, and may have [cpu], [interconnect] and [[price]], as \
     those of hardware/instances have";
const PROFILE_HELP: &str = "`servesim calibrate --fit-deployment` writes one";
const CALIBRATION_HELP: &str = "leave [calibration] out to predict from the datasheet's figures, or let `servesim calibrate \
     --device` write it";

/// A GPU or an instance, by the key that names it.
pub(super) fn hardware(file: &Named<'_>, error: CatalogError, context: &mut Context<'_>) {
    let of_gpu = file.key == "hardware.gpu";
    let (what, folder, help) =
        if of_gpu { ("GPU", "gpus", GPU_HELP) } else { ("instance", "instances", INSTANCE_HELP) };
    let title = format!("this {what} file cannot be used");
    let help = help.to_owned();
    let fault = match error {
        CatalogError::Syntax { message, span, .. } => {
            Fault { title, place: Place::maybe(span), label: message, help }
        }
        CatalogError::Value { key, reason, .. } => Fault {
            title: format!("`{key}` {reason}"),
            place: Place::Path(key.to_owned()),
            label: String::new(),
            help: format!("the files under hardware/{folder} are examples"),
        },
        CatalogError::UnknownGpu(UnknownName { suggestion, known, .. }) => Fault {
            title: "unknown GPU".into(),
            place: Place::Path("gpu".into()),
            label: "not in the catalogue".into(),
            help: match suggestion {
                Some(near) => format!("a similar name exists: \"{near}\""),
                None => format!("known: {}", known.join(", ")),
            },
        },
        CatalogError::UnknownInstance(error) => {
            Fault { title, place: Place::Nowhere, label: error.to_string(), help }
        }
    };
    report(file, fault, context);
}

pub(super) fn model(file: &Named<'_>, error: &ModelError, context: &mut Context<'_>) {
    let text = std::str::from_utf8(file.bytes).unwrap_or_default();
    let place = Place::maybe(error.place(text));
    let title = "this config.json cannot be used".to_owned();
    let fault = match error {
        ModelError::Json { reason, .. } => {
            // The place says where.
            let reason = reason.split(" at line ").next().unwrap_or(reason).to_owned();
            let help = "give a Hugging Face config.json, whole";
            Fault {
                title: "this is not a JSON object".into(),
                place,
                label: reason,
                help: help.into(),
            }
        }
        ModelError::Missing { field, .. } => Fault {
            title: format!("`{field}` is missing"),
            place,
            label: format!("no \"{field}\" in the object"),
            help: "a Hugging Face config.json of a decoder gives it at its top level".into(),
        },
        ModelError::Field { field, expected, .. } => Fault {
            title: format!("`{field}` cannot be used"),
            place,
            label: format!("must be {expected}"),
            help: "take the value of the model's own config.json".into(),
        },
        ModelError::Architecture { found, .. } => {
            let known: Vec<&str> = crate::model::Architecture::names().collect();
            Fault {
                title: format!("the architecture {found} is not supported"),
                place,
                label: "not one of those that are".into(),
                help: format!("supported are {}", known.join(", ")),
            }
        }
        ModelError::Unsupported { feature, remedy, .. } => Fault {
            title: format!("{feature} is not modelled yet"),
            place,
            label: "asked for here".into(),
            help: (*remedy).to_owned(),
        },
        ModelError::UnknownPreset { .. } => {
            Fault { title, place, label: error.to_string(), help: "name a preset".into() }
        }
    };
    report(file, fault, context);
}

/// `within` is the table of the file that holds the profile: empty for the whole file.
pub(super) fn profile(
    file: &Named<'_>,
    within: &str,
    error: &ProfileError,
    context: &mut Context<'_>,
) {
    let (title, help) = match within {
        "" => ("this is no deployment profile", PROFILE_HELP),
        _ => ("this is no calibration of a GPU", CALIBRATION_HELP),
    };
    let (title, help) = (title.to_owned(), help.to_owned());
    let fault = match error {
        ProfileError::Syntax { message, span, .. } => {
            Fault { title, place: Place::maybe(span.clone()), label: message.clone(), help }
        }
        ProfileError::Format { found, span, .. } => Fault {
            title: "the profile is of another format".into(),
            place: Place::Bytes(span.clone()),
            label: format!("format {found}; this servesim reads format {FORMAT}"),
            help: "measure or fit it again with `servesim calibrate`, or use the servesim that wrote it"
                .into(),
        },
        ProfileError::Value { field, value, expected, .. } => Fault {
            title: format!("`{field}` must be {expected}"),
            place: Place::Path(if within.is_empty() {
                field.clone()
            } else {
                format!("{within}.{field}")
            }),
            label: format!("it is {value} in base units"),
            help,
        },
        other => Fault { title, place: Place::Nowhere, label: other.to_string(), help },
    };
    report(file, fault, context);
}

fn report(file: &Named<'_>, fault: Fault, context: &mut Context<'_>) {
    let Fault { title, place, label, help } = fault;
    let diagnostic = match std::str::from_utf8(file.bytes) {
        Ok(text) => {
            let source = context.sources.add(file.path.display().to_string(), text);
            let span = match place {
                Place::Bytes(range) => {
                    first_line(text, range).map(|range| Span::new(source, range))
                }
                Place::Path(path) => nearest(source, text, &path),
                Place::Nowhere => None,
            };
            match span {
                Some(span) => Diagnostic::new(title).at(span, label),
                None => Diagnostic::new(title).within(source).note(label),
            }
        }
        // There is no text to show.
        Err(_) => context.problem_at(file.key, title, label),
    };
    let diagnostic = match (&diagnostic.primary, context.span(file.key)) {
        (Some(label), Some(key)) if label.span != key => diagnostic.because(key, "named here"),
        _ => diagnostic,
    };
    context.report(diagnostic.help(help));
}

/// The first line of a range; none of one that is the whole text, in which something is missing.
fn first_line(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    if range.start == 0 && (range.is_empty() || range.end >= text.trim_end().len()) {
        return None;
    }
    let line = text.get(range.start..).and_then(|rest| rest.find('\n')).unwrap_or(text.len());
    Some(range.start..range.end.min(range.start + line))
}

/// The value at a dotted path, else the header of the innermost table on the way to it.
fn nearest(source: SourceId, text: &str, path: &str) -> Option<Span> {
    let (table, _): (Table, _) = document::parse(source, text);
    if let Some(node) = table.find(path) {
        return Some(node.span.clone());
    }
    let parents = path.rmatch_indices('.').map(|(dot, _)| &path[..dot]);
    parents.filter_map(|parent| table.find(parent)).map(|node| node.key_span.clone()).next()
}
