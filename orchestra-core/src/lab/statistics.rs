//! Means and how far to trust them.

/// What repeated measurements say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many there were.
    pub count: usize,
    /// Their mean; 0 of none.
    pub mean: f64,
    /// Their sample standard deviation; 0 of fewer than two.
    pub deviation: f64,
}

impl Summary {
    /// Sums measurements up.
    pub fn of(measurements: impl IntoIterator<Item = f64>) -> Self {
        // Welford's method (Technometrics 4, 1962).
        let (mut count, mut mean, mut squares) = (0_usize, 0.0, 0.0);
        for measurement in measurements {
            count += 1;
            let off = measurement - mean;
            mean += off / count as f64;
            squares += off * (measurement - mean);
        }
        let deviation = if count > 1 { (squares / (count - 1) as f64).sqrt() } else { 0.0 };
        Self { count, mean, deviation }
    }

    /// Half the width of the 95 % confidence interval of the mean, by Student's t; 0 of fewer than two.
    #[must_use]
    pub fn confidence(&self) -> f64 {
        // Two-sided 97.5 % quantiles for 1 to 30 degrees of freedom.
        const T: [f64; 30] = [
            12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
            2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
        ];
        if self.count < 2 {
            return 0.0;
        }
        let t = T.get(self.count - 2).copied().unwrap_or(1.96);
        t * self.deviation / (self.count as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn a_summary_is_that_of_the_textbook() {
        let summary = Summary::of([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!((summary.count, summary.mean), (8, 5.0));
        assert!((summary.deviation - 2.138_089_935).abs() < 1e-9);
        assert!((summary.confidence() - 2.365 * 2.138_089_935 / 8.0_f64.sqrt()).abs() < 1e-9);
        assert_eq!(Summary::of([]), Summary::default());
        assert_eq!(Summary::of([3.0]).confidence(), 0.0);
    }
}
