//! Every step of a real run as a line of text: enough to price it again, by another profile, without a GPU.

use std::fmt::Write;

use aril_sim::batch::{Prefill, Segment};

use super::RealStep;

const HEAD: &str = "decode_rows,context_sum,context_max,prompts,segments,us,made_us,modelled_us,rested_us,device_us";
/// Files of before tell neither rests nor the GPU's part.
const HEAD_OLDEST: &str = "decode_rows,context_sum,context_max,prompts,segments,us,made_us,modelled_us";

/// As CSV: prompts as `chunk+prefix`, adapters as `rank:decode rows+prompt rows`, both with spaces between.
pub fn write(steps: &[RealStep]) -> String {
    let mut text = format!("{HEAD}\n");
    for step in steps {
        let prompts: Vec<String> = step.prompts.iter().map(|p| format!("{}+{}", p.chunk, p.prefix)).collect();
        let segments: Vec<String> =
            step.segments.iter().map(|s| format!("{}:{}+{}", s.rank, s.decode_rows, s.prefill_rows)).collect();
        let RealStep { decode_rows, context_sum, context_max, us, made_us, modelled_us, rested_us, device_us, .. } =
            step;
        writeln!(
            text,
            "{decode_rows},{context_sum},{context_max},{},{},{us:.3},{made_us:.3},{modelled_us:.3},{rested_us:.3},{device_us:.3}",
            prompts.join(" "),
            segments.join(" ")
        )
        .expect("text grows");
    }
    text
}

/// What [`write()`] wrote.
///
/// # Errors
/// The first line that is none of its lines.
pub fn read(text: &str) -> Result<Vec<RealStep>, String> {
    let mut lines = text.lines().enumerate();
    if lines.next().is_none_or(|(_, head)| !HEAD.starts_with(head) || !head.starts_with(HEAD_OLDEST)) {
        return Err(format!("line 1 is not `{HEAD}`"));
    }
    lines.map(|(index, line)| step(line).ok_or_else(|| format!("line {} is no step: `{line}`", index + 1))).collect()
}

fn step(line: &str) -> Option<RealStep> {
    let fields: Vec<&str> = line.split(',').collect();
    let [decode_rows, context_sum, context_max, prompts, segments, us, made_us, modelled_us, ref more @ ..] =
        fields[..]
    else {
        return None;
    };
    let told = |field: usize| more.get(field).map_or(Some(0.0), |us| us.parse().ok());
    let prompt = |text: &str| {
        let (chunk, prefix) = text.split_once('+')?;
        Some(Prefill { chunk: chunk.parse().ok()?, prefix: prefix.parse().ok()? })
    };
    let segment = |text: &str| {
        let (rank, rows) = text.split_once(':')?;
        let (decode, prompt) = rows.split_once('+')?;
        let (rank, decode_rows, prefill_rows) = (rank.parse().ok()?, decode.parse().ok()?, prompt.parse().ok()?);
        Some(Segment { rank, prefill_rows, decode_rows })
    };
    Some(RealStep {
        decode_rows: decode_rows.parse().ok()?,
        context_sum: context_sum.parse().ok()?,
        context_max: context_max.parse().ok()?,
        prompts: prompts.split_whitespace().map(prompt).collect::<Option<_>>()?,
        segments: segments.split_whitespace().map(segment).collect::<Option<_>>()?,
        us: us.parse().ok()?,
        made_us: made_us.parse().ok()?,
        modelled_us: modelled_us.parse().ok()?,
        rested_us: told(0)?,
        device_us: told(1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_they_were_written() {
        let mixed = RealStep {
            decode_rows: 3,
            context_sum: 700,
            context_max: 400,
            prompts: vec![Prefill { chunk: 512, prefix: 0 }, Prefill { chunk: 7, prefix: 1024 }],
            segments: vec![Segment { rank: 16, prefill_rows: 512, decode_rows: 1 }],
            us: 10_000.125,
            made_us: 0.0,
            modelled_us: 9_999.5,
            rested_us: 250.0,
            device_us: 9_950.5,
        };
        let alone = RealStep { prompts: Vec::new(), segments: Vec::new(), made_us: 12.5, ..mixed.clone() };
        let steps = vec![mixed, alone];
        assert_eq!(read(&write(&steps)), Ok(steps));
    }

    #[test]
    fn a_damaged_line_is_named() {
        let text = format!("{HEAD}\n1,2,2,,,3.0,0.0,3.0\n1,2,2,x,,3.0,0.0,3.0\n");
        assert!(read(&text).unwrap_err().starts_with("line 3 "));
        assert!(read("").unwrap_err().starts_with("line 1 "));
    }
}
