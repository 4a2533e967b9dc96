//! Histograms as ServeGen writes them: a Python dictionary in a string, `{618: 0.0033, 628.0: 0.0033}`.

use std::sync::Arc;

/// Lengths and their probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram {
    /// (length in tokens, cumulative probability), in the order of the file.
    sums: Arc<[(u32, f64)]>,
}

impl Histogram {
    /// None for an empty dictionary; an error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Option<Histogram>, String> {
        let inner = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        let Some(inner) = inner else { return Err("no dictionary in braces".into()) };
        let (mut sums, mut sum) = (Vec::new(), 0.0);
        for pair in inner.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
            let parsed = pair.split_once(':').and_then(|(key, value)| Some((number(key)?, number(value)?)));
            let Some((length, weight)) =
                parsed.filter(|(length, _)| length.fract() == 0.0 && *length <= f64::from(u32::MAX))
            else {
                return Err(format!("{pair:?} is no length with a probability"));
            };
            if weight > 0.0 {
                sum += weight;
                sums.push((length as u32, sum));
            }
        }
        if sums.is_empty() {
            return Ok(None);
        }
        sums.iter_mut().for_each(|(_, partial)| *partial /= sum);
        Ok(Some(Histogram { sums: sums.into() }))
    }

    /// The length that a uniform draw hits.
    pub(crate) fn at(&self, draw: f64) -> u32 {
        let position = self.sums.partition_point(|(_, sum)| *sum <= draw).min(self.sums.len() - 1);
        self.sums[position].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_dictionaries_are_read_with_whole_or_float_keys() {
        let histogram = Histogram::parse("{618: 0.25, 628.0: 0.5, 7: 0.0, 700: 0.25}").unwrap().unwrap();
        assert_eq!([0.0, 0.24, 0.25, 0.74, 0.75, 0.999].map(|draw| histogram.at(draw)), [618, 618, 628, 628, 700, 700]);
        assert_eq!(Histogram::parse("{}").unwrap(), None);
        assert_eq!(Histogram::parse("{3: 1e-05}").unwrap().unwrap().at(0.5), 3);
        for text in ["", "[]", "{3}", "{3: x}", "{-3: 1}", "{3.5: 1}", "{3: nan}", "{99999999999: 1}", "{3: -1}"] {
            assert!(Histogram::parse(text).is_err(), "{text}");
        }
    }
}
