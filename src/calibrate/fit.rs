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
    /// `sensitivity[row][parameter]`: relative change of the row's prediction for a relative change
    /// of the parameter (an elasticity), at `values`.
    pub sensitivity: Vec<Vec<f64>>,
    pub iterations: usize,
}

/// Relative step of the forward differences.
const STEP: f64 = 0.02;
const MAX_ITERATIONS: usize = 30;
/// Stop when no logarithm moves by more than this: a tenth of a per cent of a constant, well within
/// what any row can tell.
const TOLERANCE: f64 = 1e-3;

/// Minimises the sum of squared residuals over `spread_of_data` squared plus the priors' squared
/// distances. `residuals` maps values to the log ratios of all rows.
///
/// With no parameters it only evaluates the rows.
pub fn least_squares(
    parameters: &[Parameter],
    spread_of_data: f64,
    residuals: impl Fn(&[f64]) -> Vec<f64>,
) -> Fit {
    let to_values = |logs: &[f64]| logs.iter().map(|l| l.exp()).collect::<Vec<f64>>();
    let clamp = |logs: &mut [f64]| {
        for (log, p) in logs.iter_mut().zip(parameters) {
            *log = log.clamp(p.bounds.0.ln(), p.bounds.1.ln());
        }
    };
    let objective = |logs: &[f64], rows: &[f64]| {
        let data: f64 = rows.iter().map(|r| (r / spread_of_data).powi(2)).sum();
        let prior: f64 = logs
            .iter()
            .zip(parameters)
            .map(|(log, p)| ((log - p.guess.ln()) / p.spread).powi(2))
            .sum();
        data + prior
    };
    let jacobian = |logs: &[f64], rows: &[f64]| -> Vec<Vec<f64>> {
        let mut columns = Vec::new();
        for i in 0..logs.len() {
            let mut moved = logs.to_vec();
            // Step inwards at a bound, so that the derivative is taken where the model is asked.
            let upper = parameters[i].bounds.1.ln();
            let step = if moved[i] + STEP > upper { -STEP } else { STEP };
            moved[i] += step;
            let there = residuals(&to_values(&moved));
            columns.push(there.iter().zip(rows).map(|(a, b)| (a - b) / step).collect::<Vec<_>>());
        }
        (0..rows.len()).map(|row| columns.iter().map(|c| c[row]).collect()).collect()
    };

    let mut logs: Vec<f64> = parameters.iter().map(|p| p.start.ln()).collect();
    clamp(&mut logs);
    let mut rows = residuals(&to_values(&logs));
    let mut best = objective(&logs, &rows);
    let mut damping = 1e-3;
    let mut iterations = 0;
    while iterations < MAX_ITERATIONS && !parameters.is_empty() {
        iterations += 1;
        let slope = jacobian(&logs, &rows);
        let n = parameters.len();
        let mut normal = vec![vec![0.0; n]; n];
        let mut gradient = vec![0.0; n];
        for (row, residual) in slope.iter().zip(&rows) {
            for i in 0..n {
                gradient[i] += row[i] * residual / spread_of_data.powi(2);
                for j in 0..n {
                    normal[i][j] += row[i] * row[j] / spread_of_data.powi(2);
                }
            }
        }
        for (i, p) in parameters.iter().enumerate() {
            let weight = p.spread.powi(-2);
            normal[i][i] += weight;
            gradient[i] += (logs[i] - p.guess.ln()) * weight;
        }
        let mut moved = 0.0;
        // Raise the damping until a step improves the fit.
        for _ in 0..8 {
            let mut damped = normal.clone();
            for (i, row) in damped.iter_mut().enumerate() {
                row[i] *= 1.0 + damping;
            }
            let Some(step) = solve(damped, &gradient) else { break };
            let mut candidate: Vec<f64> = logs.iter().zip(&step).map(|(l, s)| l - s).collect();
            clamp(&mut candidate);
            let there = residuals(&to_values(&candidate));
            let value = objective(&candidate, &there);
            if value < best {
                moved = logs.iter().zip(&candidate).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                (logs, rows, best) = (candidate, there, value);
                damping = (damping * 0.3).max(1e-9);
                break;
            }
            damping *= 10.0;
        }
        if moved < TOLERANCE {
            break;
        }
    }
    let sensitivity = jacobian(&logs, &rows);
    Fit { values: to_values(&logs), residuals: rows, sensitivity, iterations }
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
        assert!(fit.sensitivity.iter().all(|row| row[1] == 0.0));
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
