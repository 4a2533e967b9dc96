//! Curves made ready to be looked up, to the last digit as they are written.

use crate::profile::curve::Curve;

/// A curve with what its points need for every look-up: slopes are divided once, and a point is found without a branch for each.
#[derive(Clone, Debug)]
pub(super) enum Quick {
    Affine {
        us: f64,
        us_per_row: f64,
    },
    /// At least two points, and the slope from each to the next.
    Points {
        rows: Vec<f64>,
        us: Vec<f64>,
        slopes: Vec<f64>,
    },
    /// As it is written.
    Other(Curve),
}

impl Quick {
    pub(super) fn of(curve: &Curve) -> Quick {
        match curve {
            Curve::Affine { us, us_per_row } => Quick::Affine { us: *us, us_per_row: *us_per_row },
            Curve::Table { rows, us } if rows.len() > 1 && rows.len() == us.len() => {
                let slope = |left: usize| (us[left + 1] - us[left]) / (rows[left + 1] - rows[left]);
                let slopes = (0..rows.len() - 1).map(slope).collect();
                Quick::Points { rows: rows.clone(), us: us.clone(), slopes }
            }
            other => Quick::Other(other.clone()),
        }
    }

    /// [`Curve::us`].
    pub(super) fn us(&self, x: f64) -> f64 {
        if x <= 0.0 {
            return 0.0;
        }
        match self {
            Quick::Affine { us, us_per_row } => us + us_per_row * x,
            Quick::Points { rows, us, slopes } => {
                if x <= rows[0] {
                    return us[0];
                }
                let before: usize = rows.iter().map(|point| usize::from(*point < x)).sum();
                let left = before.clamp(1, slopes.len()) - 1;
                (us[left] + slopes[left] * (x - rows[left])).max(0.0)
            }
            Quick::Other(curve) => curve.us(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_curve_is_the_curve() {
        let table = |rows: &[f64], us: &[f64]| Curve::Table { rows: rows.to_vec(), us: us.to_vec() };
        let curves = [
            Curve::Affine { us: 3.1, us_per_row: 0.7 },
            table(&[2.0], &[5.0]),
            table(&[8.0, 27.857618025475976, 97.00586025666549], &[0.0, 0.22223045269308203, 2.030305190229902]),
            table(&[1.0, 3.0, 9.5, 20.0], &[7.0, 1.0, 4.0, 0.5]),
        ];
        for curve in curves {
            let quick = Quick::of(&curve);
            for x in (0..4000).map(|x| f64::from(x) / 16.0).chain([1e6]) {
                assert_eq!(quick.us(x).to_bits(), curve.us(x).to_bits(), "{curve:?} at {x}");
            }
        }
    }
}
