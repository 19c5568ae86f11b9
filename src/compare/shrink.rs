//! From a list of which something holds to a small one of which it holds too.

/// A change that makes one item simpler, or leaves it as it is.
pub type Simpler<T> = fn(&mut T);
/// The same for all items at once.
pub type AllSimpler<T> = fn(&mut [T]);

/// Finds a small list of which `holds` is true, as it is of `items`: fewer items first, then simpler
/// ones, until nothing gets smaller, or lists of `work` items in all have been tried.
pub fn shrink<T: Clone + PartialEq>(
    items: Vec<T>,
    each: &[Simpler<T>],
    all: &[AllSimpler<T>],
    work: u64,
    holds: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let mut search = Search { items, work, holds };
    while search.fewer() || search.simpler(each, all) {}
    search.items
}

struct Search<T, F> {
    items: Vec<T>,
    work: u64,
    holds: F,
}

impl<T: Clone + PartialEq, F: FnMut(&[T]) -> bool> Search<T, F> {
    fn tries(&mut self, smaller: Vec<T>) -> bool {
        let cost = smaller.len() as u64;
        if smaller.is_empty() || cost > self.work {
            return false;
        }
        self.work -= cost;
        let holds = (self.holds)(&smaller);
        if holds {
            self.items = smaller;
        }
        holds
    }

    /// Leaves out runs of items, long ones first (Zeller and Hildebrandt 2002, "Simplifying and
    /// isolating failure-inducing input").
    fn fewer(&mut self) -> bool {
        let before = self.items.len();
        let mut run = before / 2;
        while run > 0 && self.work > 0 {
            let mut at = 0;
            while at < self.items.len() && self.work > 0 {
                let end = (at + run).min(self.items.len());
                let rest = [&self.items[..at], &self.items[end..]].concat();
                if !self.tries(rest) {
                    at += run;
                }
            }
            run /= 2;
        }
        self.items.len() < before
    }

    fn simpler(&mut self, each: &[Simpler<T>], all: &[AllSimpler<T>]) -> bool {
        let mut changed = false;
        let mut keep = |search: &mut Self, simpler: Vec<T>| {
            changed |= simpler != search.items && search.tries(simpler);
        };
        for change in all {
            let mut simpler = self.items.clone();
            change(&mut simpler);
            keep(self, simpler);
        }
        for at in 0..self.items.len() {
            for change in each {
                let mut simpler = self.items.clone();
                change(&mut simpler[at]);
                keep(self, simpler);
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At least two items of at least ten.
    fn holds(items: &[u32]) -> bool {
        items.iter().filter(|&&item| item >= 10).count() >= 2
    }

    #[test]
    fn what_does_not_matter_goes_and_what_matters_gets_simple() {
        let items: Vec<u32> = (0..1000).collect();
        let small = shrink(items, &[|item| *item /= 2], &[], u64::MAX, holds);
        assert_eq!(small.len(), 2);
        assert!(small.iter().all(|item| (10..20).contains(item)), "{small:?}");
    }

    #[test]
    fn all_items_may_get_simpler_together() {
        let even = |items: &[u32]| items.len() == 3 && items.iter().all(|item| item % 2 == 0);
        let down: AllSimpler<u32> = |items| items.iter_mut().for_each(|item| *item -= *item % 10);
        assert_eq!(shrink(vec![12, 28, 44], &[], &[down], u64::MAX, even), [10, 20, 40]);
    }

    #[test]
    fn the_search_ends_when_its_work_is_done() {
        let mut tried = 0;
        let small = shrink((0..1000).collect(), &[], &[], 5000, |items: &[u32]| {
            tried += items.len();
            holds(items)
        });
        assert!(holds(&small) && tried <= 5000, "{tried}");
    }
}
