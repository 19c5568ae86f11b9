//! A share of a sweep: every N-th of its points, for one of N machines.

use std::fmt;
use std::str::FromStr;

/// Shard `index` of `count`, counted from 0 as job arrays count: the points whose number modulo
/// `count` is `index`. In text `8/8` is `0/8`, so that `1/8` to `8/8` are all shards too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard {
    index: u64,
    count: u64,
}

/// Why a shard cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShardError(String);

impl Shard {
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    pub fn new(index: u64, count: u64) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    pub const fn index(self) -> u64 {
        self.index
    }

    pub const fn count(self) -> u64 {
        self.count
    }

    pub const fn has(self, point: u64) -> bool {
        point % self.count == self.index
    }

    /// The shard that a job array's environment names. `I/N` stands for itself; `auto` looks for
    /// the index of a Slurm array, a Kubernetes indexed Job or a HyperQueue task, and `auto/N` does
    /// where the environment does not say how many there are. `variable` reads the environment.
    pub fn from_environment(
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ShardError> {
        let Some(count) = text.strip_prefix("auto") else { return text.parse() };
        let number = |name: &str| {
            let text = variable(name)?;
            Some(text.trim().parse::<u64>().map_err(|_| {
                ShardError(format!("{name} is {text:?}, which is no index of a task"))
            }))
        };
        let given = match count.strip_prefix('/') {
            None if count.is_empty() => None,
            Some(count) => Some(
                count.parse::<u64>().ok().filter(|count| *count > 0).ok_or_else(|| wrong(text))?,
            ),
            None => return Err(wrong(text)),
        };
        // Slurm counts from SLURM_ARRAY_TASK_MIN; Kubernetes and HyperQueue from 0.
        const SYSTEMS: [(&str, Option<&str>, &[&str]); 3] = [
            ("SLURM_ARRAY_TASK_ID", Some("SLURM_ARRAY_TASK_MIN"), &["SLURM_ARRAY_TASK_COUNT"]),
            ("JOB_COMPLETION_INDEX", None, &["JOB_COMPLETIONS", "COMPLETIONS"]),
            ("HQ_TASK_ID", None, &["HQ_NUM_TASKS"]),
        ];
        for (id, first, counts) in SYSTEMS {
            let Some(index) = number(id).transpose()? else { continue };
            let first = first.and_then(number).transpose()?.unwrap_or(0);
            let named = counts.iter().find_map(|name| number(name)).transpose()?;
            let Some(count) = given.or(named) else {
                return Err(ShardError(format!(
                    "{id} says which task this is, and nothing says of how many: write --shard \
                     auto/N"
                )));
            };
            let index = index.checked_sub(first).ok_or_else(|| {
                ShardError(format!("{id} is {index}, before the first task, {first}"))
            })?;
            return Self::new(index, count).ok_or_else(|| {
                ShardError(format!(
                    "{id} is task {index} counted from 0, and there are {count}: number the tasks \
                     from 0 to {}",
                    count.saturating_sub(1)
                ))
            });
        }
        Err(ShardError(
            "no task index in the environment (SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX, \
             HQ_TASK_ID): write --shard I/N"
                .into(),
        ))
    }
}

fn wrong(text: &str) -> ShardError {
    ShardError(format!("{text:?} is no shard: write I/N, as in 0/4 to 3/4, or auto in a job array"))
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let (index, count) = text.split_once('/').ok_or_else(|| wrong(text))?;
        let parse = |part: &str| part.trim().parse::<u64>().map_err(|_| wrong(text));
        let (index, count) = (parse(index)?, parse(count)?);
        if index > count || count == 0 {
            return Err(wrong(text));
        }
        Ok(Self { index: index % count, count })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(text: &str, environment: &[(&str, &str)]) -> Result<String, String> {
        let variable = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        match Shard::from_environment(text, variable) {
            Ok(shard) => Ok(shard.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_point_belongs_to_one_shard() {
        let shards: Vec<_> = (0..3).map(|i| Shard::new(i, 3).unwrap()).collect();
        for point in 0..10 {
            assert_eq!(shards.iter().filter(|shard| shard.has(point)).count(), 1);
        }
    }

    #[test]
    fn a_shard_is_read_as_it_is_written() {
        for (text, shown) in [("2/8", "2/8"), ("0/8", "0/8"), ("8/8", "0/8"), ("1/1", "0/1")] {
            assert_eq!(auto(text, &[]), Ok(shown.into()));
        }
        for bad in ["9/8", "3", "a/b", "1/0", "0/0", "-1/2", "autos", "auto/0"] {
            assert!(auto(bad, &[]).unwrap_err().contains("0/4"), "{bad}");
        }
    }

    #[test]
    fn job_arrays_say_which_shard_they_want() {
        let slurm = [
            ("SLURM_ARRAY_TASK_ID", "7"),
            ("SLURM_ARRAY_TASK_MIN", "5"),
            ("SLURM_ARRAY_TASK_COUNT", "4"),
        ];
        assert_eq!(auto("auto", &slurm), Ok("2/4".into()));
        assert_eq!(auto("auto/6", &[("JOB_COMPLETION_INDEX", "5")]), Ok("5/6".into()));
        assert_eq!(auto("auto/2", &[("HQ_TASK_ID", "0")]), Ok("0/2".into()));
        assert!(auto("auto", &[("HQ_TASK_ID", "0")]).unwrap_err().contains("auto/N"));
        assert!(auto("auto/2", &[("HQ_TASK_ID", "2")]).unwrap_err().contains("from 0 to 1"));
        assert!(auto("auto", &[]).unwrap_err().contains("--shard I/N"));
        assert!(auto("auto/2", &[("HQ_TASK_ID", "x")]).unwrap_err().contains("no index"));
    }
}
