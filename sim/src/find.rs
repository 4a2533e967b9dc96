//! Where is a number in a list of a few dozen? Lists are looked through several at a time, without branches that nobody foresees.

/// Numbers that are compared together.
const TOGETHER: usize = 8;
/// Longer lists are in order and halved instead.
pub(crate) const FEW: usize = 64;

/// The first position from `from` on of the number.
pub(crate) fn next(list: &[u32], wanted: u32, from: usize) -> Option<usize> {
    let (chunks, _) = list.get(from..)?.as_chunks::<TOGETHER>();
    let is_in = |chunk: &[u32; TOGETHER]| chunk.iter().fold(false, |any, number| any | (*number == wanted));
    let before = chunks.iter().take_while(|chunk| !is_in(chunk)).count();
    (from + before * TOGETHER..list.len()).find(|&position| list[position] == wanted)
}

/// The position of a number that a list has once, if it has it: of at most [`FEW`] in any order, of more in order.
pub(crate) fn only<T: Copy + Ord>(list: &[T], wanted: T) -> Option<usize> {
    if list.len() > FEW {
        return list.binary_search(&wanted).ok();
    }
    // Everybody is looked at: who leaves early leaves where nobody foresees.
    let found = (1..).zip(list).map(|(place, each)| if *each == wanted { place } else { 0_u32 }).fold(0, |a, b| a | b);
    (found as usize).checked_sub(1)
}

/// The position in a list in order, or where it would be.
pub(crate) fn in_order<T: Copy + Ord>(list: &[T], wanted: T) -> Result<usize, usize> {
    if list.len() > FEW {
        return list.binary_search(&wanted);
    }
    let position = list.iter().map(|each| u32::from(*each < wanted)).sum::<u32>() as usize;
    if list.get(position) == Some(&wanted) { Ok(position) } else { Err(position) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_where_they_are() {
        for len in [0, 1, 7, 8, 9, 31, 64, 65, 200] {
            let list: Vec<u32> = (0..len).map(|i| 3 * i + 1).collect();
            for wanted in 0..3 * len + 3 {
                assert_eq!(in_order(&list, wanted), list.binary_search(&wanted));
                assert_eq!(only(&list, wanted), list.binary_search(&wanted).ok());
                for from in 0..len as usize + 2 {
                    let known = list.iter().skip(from).position(|number| *number == wanted);
                    assert_eq!(next(&list, wanted, from), known.map(|position| from + position));
                }
            }
            let twice = [list.clone(), list].concat();
            for from in 0..twice.len() {
                assert_eq!(next(&twice, 1, from), twice[from..].iter().position(|n| *n == 1).map(|at| at + from));
            }
        }
    }
}
