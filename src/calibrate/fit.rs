//! Bounded least squares with priors over a few positive constants.
//!
//! Constants span orders of magnitude and are known to a factor, so they are fitted as logarithms:
//! a prior is a best guess and a spread in natural-log units, and a residual is a log ratio of
//! predicted to measured. Damped Gauss-Newton (Levenberg-Marquardt) with forward differences; the
//! model is a simulation, so its derivative has no closed form.

/// A constant to be fitted: positive, within bounds, with a guess of its size.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub guess: f64,
    /// Where the search begins; only the number of steps depends on it.
    pub start: f64,
    /// Standard deviation of the prior in natural-log units; infinite for no prior.
    pub spread: f64,
    pub bounds: (f64, f64),
}

/// The outcome of a fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    pub values: Vec<f64>,
    /// Log ratio predicted / measured of each row, at `values`.
    pub residuals: Vec<f64>,
    pub iterations: usize,
}

/// `slope[row][parameter]`: relative change of the row's prediction for a relative change of the
/// parameter (an elasticity).
pub type Slope = Vec<Vec<f64>>;

/// Relative step of the forward differences.
const STEP: f64 = 0.02;
const MAX_ITERATIONS: usize = 30;
/// Stop when no logarithm moves by more than this: a tenth of a per cent of a constant, well within
/// what any row can tell.
const TOLERANCE: f64 = 1e-3;

/// Minimises the sum of squared residuals over `spread_of_data` squared plus the priors' squared
/// distances. `residuals` maps values to the log ratios of all rows.
///
/// With no parameters it only evaluates the rows. The rows' slope at the end is [`slope`]'s to tell.
pub fn least_squares(
    parameters: &[Parameter],
    spread_of_data: f64,
    residuals: impl Fn(&[f64]) -> Vec<f64>,
) -> Fit {
    let mut search = Search::new(parameters, spread_of_data, &residuals);
    let mut damping = 1e-3;
    let mut iterations = 0;
    while iterations < MAX_ITERATIONS && !parameters.is_empty() {
        iterations += 1;
        let slope = slope_at(parameters, &search.logs, &search.rows, &residuals);
        let (normal, gradient) = search.normal_equations(&slope);
        let mut moved = 0.0;
        // Raise the damping until a step improves the fit.
        for _ in 0..8 {
            let mut damped = normal.clone();
            for (i, row) in damped.iter_mut().enumerate() {
                row[i] *= 1.0 + damping;
            }
            let Some(step) = solve(damped, &gradient) else { break };
            if let Some(way) = search.try_step(&step) {
                moved = way;
                damping = (damping * 0.3).max(1e-9);
                break;
            }
            damping *= 10.0;
        }
        if moved < TOLERANCE {
            break;
        }
    }
    search.finish(iterations)
}

/// The same from a nearby optimum whose slope is known, as that of the fit to one row more. The
/// slope is not taken anew but corrected by what each step shows of it (Broyden), so that a step
/// costs one evaluation in place of one for each parameter.
pub fn least_squares_near(
    parameters: &[Parameter],
    spread_of_data: f64,
    slope: Slope,
    residuals: impl Fn(&[f64]) -> Vec<f64>,
) -> Fit {
    let mut slope = slope;
    let mut search = Search::new(parameters, spread_of_data, &residuals);
    let mut iterations = 0;
    while iterations < MAX_ITERATIONS && !parameters.is_empty() {
        iterations += 1;
        let (normal, gradient) = search.normal_equations(&slope);
        let Some(mut step) = solve(normal, &gradient) else { break };
        let (logs, rows) = (search.logs.clone(), search.rows.clone());
        let mut moved = None;
        for _ in 0..4 {
            moved = search.try_step(&step);
            if moved.is_some() {
                break;
            }
            step.iter_mut().for_each(|s| *s *= 0.5);
        }
        if moved.is_none_or(|moved| moved < TOLERANCE) {
            break;
        }
        let way: Vec<f64> = search.logs.iter().zip(&logs).map(|(new, old)| new - old).collect();
        let length: f64 = way.iter().map(|w| w * w).sum();
        for ((row, new), old) in slope.iter_mut().zip(&search.rows).zip(&rows) {
            let promised: f64 = row.iter().zip(&way).map(|(slope, way)| slope * way).sum();
            let missed = (new - old - promised) / length;
            row.iter_mut().zip(&way).for_each(|(slope, way)| *slope += missed * way);
        }
    }
    search.finish(iterations)
}

/// The slope at the values of a fit.
pub fn slope(parameters: &[Parameter], fit: &Fit, residuals: impl Fn(&[f64]) -> Vec<f64>) -> Slope {
    let logs: Vec<f64> = fit.values.iter().map(|value| value.ln()).collect();
    slope_at(parameters, &logs, &fit.residuals, &residuals)
}

/// What rows and priors together say of the parameters, as if the model were linear in their
/// logarithms.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    /// Standard deviation of each, in natural-log units.
    pub spread: Vec<f64>,
    /// Between each two; 1 on the diagonal.
    pub correlation: Vec<Vec<f64>>,
}

/// `None` where rows and priors leave some combination of parameters open.
pub fn posterior(
    parameters: &[Parameter],
    spread_of_data: f64,
    slope: &Slope,
) -> Option<Posterior> {
    let n = parameters.len();
    let normal = information(parameters, spread_of_data, slope);
    let unit = |i: usize| (0..n).map(|j| f64::from(u8::from(i == j))).collect::<Vec<_>>();
    let covariance: Vec<Vec<f64>> =
        (0..n).map(|i| solve(normal.clone(), &unit(i))).collect::<Option<_>>()?;
    let spread: Vec<f64> = (0..n).map(|i| covariance[i][i].max(0.0).sqrt()).collect();
    let correlation = (0..n)
        .map(|i| (0..n).map(|j| covariance[i][j] / (spread[i] * spread[j])).collect())
        .collect();
    Some(Posterior { spread, correlation })
}

/// The matrix of the normal equations: inverse covariance of the parameters' logarithms.
fn information(parameters: &[Parameter], spread_of_data: f64, slope: &Slope) -> Vec<Vec<f64>> {
    let n = parameters.len();
    let mut normal = vec![vec![0.0; n]; n];
    for row in slope {
        for i in 0..n {
            for j in 0..n {
                normal[i][j] += row[i] * row[j] / spread_of_data.powi(2);
            }
        }
    }
    for (i, p) in parameters.iter().enumerate() {
        normal[i][i] += p.spread.powi(-2);
    }
    normal
}

fn slope_at(
    parameters: &[Parameter],
    logs: &[f64],
    rows: &[f64],
    residuals: &impl Fn(&[f64]) -> Vec<f64>,
) -> Slope {
    let mut columns = Vec::new();
    for (i, parameter) in parameters.iter().enumerate() {
        let mut moved = logs.to_vec();
        // Step inwards at a bound, so that the derivative is taken where the model is asked.
        let step = if moved[i] + STEP > parameter.bounds.1.ln() { -STEP } else { STEP };
        moved[i] += step;
        let there = residuals(&values_of(&moved));
        columns.push(there.iter().zip(rows).map(|(a, b)| (a - b) / step).collect::<Vec<_>>());
    }
    (0..rows.len()).map(|row| columns.iter().map(|c| c[row]).collect()).collect()
}

fn values_of(logs: &[f64]) -> Vec<f64> {
    logs.iter().map(|log| log.exp()).collect()
}

/// Where a search stands.
struct Search<'a, R> {
    parameters: &'a [Parameter],
    spread_of_data: f64,
    residuals: &'a R,
    logs: Vec<f64>,
    rows: Vec<f64>,
    best: f64,
}

impl<'a, R: Fn(&[f64]) -> Vec<f64>> Search<'a, R> {
    fn new(parameters: &'a [Parameter], spread_of_data: f64, residuals: &'a R) -> Self {
        let logs = parameters.iter().map(|p| p.start.clamp(p.bounds.0, p.bounds.1).ln()).collect();
        let mut search =
            Self { parameters, spread_of_data, residuals, logs, rows: Vec::new(), best: 0.0 };
        search.rows = residuals(&values_of(&search.logs));
        search.best = search.objective(&search.logs, &search.rows);
        search
    }

    fn objective(&self, logs: &[f64], rows: &[f64]) -> f64 {
        let data: f64 = rows.iter().map(|r| (r / self.spread_of_data).powi(2)).sum();
        let from_prior = |(log, p): (&f64, &Parameter)| ((log - p.guess.ln()) / p.spread).powi(2);
        data + logs.iter().zip(self.parameters).map(from_prior).sum::<f64>()
    }

    /// Matrix and right side of the step to the optimum of the linear model.
    fn normal_equations(&self, slope: &Slope) -> (Vec<Vec<f64>>, Vec<f64>) {
        let normal = information(self.parameters, self.spread_of_data, slope);
        let gradient = self.parameters.iter().zip(&self.logs).enumerate().map(|(i, (p, log))| {
            let data: f64 = slope.iter().zip(&self.rows).map(|(row, r)| row[i] * r).sum();
            data / self.spread_of_data.powi(2) + (log - p.guess.ln()) * p.spread.powi(-2)
        });
        let gradient = gradient.collect();
        (normal, gradient)
    }

    /// Goes the step, held to the bounds, if that improves the fit; says by how much the logarithm
    /// that moved most has moved.
    fn try_step(&mut self, step: &[f64]) -> Option<f64> {
        let bounded = |((log, step), p): ((&f64, &f64), &Parameter)| {
            (log - step).clamp(p.bounds.0.ln(), p.bounds.1.ln())
        };
        let there: Vec<f64> =
            self.logs.iter().zip(step).zip(self.parameters).map(bounded).collect();
        let rows = (self.residuals)(&values_of(&there));
        let value = self.objective(&there, &rows);
        if value >= self.best || value.is_nan() {
            return None;
        }
        let moved = self.logs.iter().zip(&there).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        (self.logs, self.rows, self.best) = (there, rows, value);
        Some(moved)
    }

    fn finish(self, iterations: usize) -> Fit {
        Fit { values: values_of(&self.logs), residuals: self.rows, iterations }
    }
}

/// Solves `matrix * x = rhs` by elimination with partial pivoting; `None` if it is singular.
fn solve(mut matrix: Vec<Vec<f64>>, rhs: &[f64]) -> Option<Vec<f64>> {
    let n = rhs.len();
    let mut rhs = rhs.to_vec();
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))?;
        if matrix[pivot][column].abs() < 1e-12 {
            return None;
        }
        matrix.swap(column, pivot);
        rhs.swap(column, pivot);
        for row in column + 1..n {
            let factor = matrix[row][column] / matrix[column][column];
            let (above, below) = matrix.split_at_mut(row);
            for (value, pivot) in below[0][column..].iter_mut().zip(&above[column][column..]) {
                *value -= factor * pivot;
            }
            rhs[row] -= factor * rhs[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| matrix[row][k] * rhs[k]).sum();
        rhs[row] = (rhs[row] - known) / matrix[row][row];
    }
    Some(rhs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, guess: f64, spread: f64) -> Parameter {
        Parameter { name: name.into(), guess, start: guess, spread, bounds: (1e-6, 1e6) }
    }

    /// Rows `a * x + b`, measured with a = 3, b = 0.5.
    fn line(values: &[f64]) -> Vec<f64> {
        [0.1, 1.0, 5.0, 20.0]
            .iter()
            .map(|x| ((values[0] * x + values[1]) / (3.0 * x + 0.5)).ln())
            .collect()
    }

    #[test]
    fn exact_data_give_the_constants_back() {
        let free = f64::INFINITY;
        let fit =
            least_squares(&[parameter("a", 1.0, free), parameter("b", 2.0, free)], 0.05, line);
        assert!((fit.values[0] - 3.0).abs() < 1e-3, "{fit:?}");
        assert!((fit.values[1] - 0.5).abs() < 1e-3, "{fit:?}");
        assert!(fit.residuals.iter().all(|r| r.abs() < 1e-3));
    }

    #[test]
    fn a_constant_that_no_row_depends_on_stays_at_its_prior() {
        let fit =
            least_squares(&[parameter("a", 1.0, 0.5), parameter("idle", 7.0, 0.5)], 0.05, |v| {
                line(&[v[0], 0.5])
            });
        assert!((fit.values[1] - 7.0).abs() < 1e-6, "{fit:?}");
    }

    #[test]
    fn the_slope_of_rows_makes_a_prior_narrower_and_nothing_else_does() {
        let parameters = [parameter("a", 1.0, 0.5), parameter("idle", 7.0, 0.5)];
        let model = |v: &[f64]| line(&[v[0], 0.5]);
        let fit = least_squares(&parameters, 0.05, model);
        let slope = slope(&parameters, &fit, model);
        assert!(slope.iter().all(|row| row[0] > 0.0 && row[1] == 0.0), "{slope:?}");
        let told = posterior(&parameters, 0.05, &slope).unwrap();
        // Four rows, the last three of a slope near one: 5 % / sqrt(3.3) at best.
        assert!((0.02..0.04).contains(&told.spread[0]), "{told:?}");
        assert!((told.spread[1] - 0.5).abs() < 1e-12, "{told:?}");
        assert!(told.correlation[0][1].abs() < 1e-12, "{told:?}");
        let free = [parameter("idle", 7.0, f64::INFINITY)];
        assert_eq!(posterior(&free, 0.05, &vec![vec![0.0]]), None);
    }

    #[test]
    fn a_fit_to_fewer_rows_is_found_from_that_to_all_with_its_slope() {
        let parameters = [parameter("a", 1.0, 0.5), parameter("b", 2.0, 0.5)];
        // A row that the model cannot meet, so that the two optima differ.
        let rows = |v: &[f64]| {
            let mut rows = line(v);
            rows[3] += 0.1;
            rows
        };
        let all = least_squares(&parameters, 0.05, rows);
        let mut slope = slope(&parameters, &all, rows);
        slope.remove(0);
        let without_first = |v: &[f64]| rows(v)[1..].to_vec();
        let mut near = parameters.clone();
        near.iter_mut().zip(&all.values).for_each(|(p, value)| p.start = *value);
        let quick = least_squares_near(&near, 0.05, slope, without_first);
        let full = least_squares(&parameters, 0.05, without_first);
        for (quick, full) in quick.values.iter().zip(&full.values) {
            assert!((quick / full - 1.0).abs() < 0.01, "{quick} {full}");
        }
        assert!((full.values[0] / all.values[0] - 1.0).abs() > 1e-3, "the optima differ");
    }

    #[test]
    fn bounds_hold() {
        let mut a = parameter("a", 1.0, f64::INFINITY);
        a.bounds = (0.5, 2.0);
        let fit = least_squares(&[a], 0.05, |v| line(&[v[0], 0.5]));
        assert!((fit.values[0] - 2.0).abs() < 1e-9, "{fit:?}");
    }

    #[test]
    fn no_parameters_is_a_plain_evaluation() {
        let fit = least_squares(&[], 0.05, |_| vec![0.1]);
        assert_eq!(fit.residuals, [0.1]);
    }
}
