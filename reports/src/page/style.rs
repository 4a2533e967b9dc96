//! The style sheet.

use crate::figure::colour;

const BASE: &str = "
:root{--paper:#fff;--card:#f6f7f9;--ink:#1b1f24;--soft:#5b6470;--line:#dfe3e8;--link:#1a56b0;--better:#0b6e4f;--worse:#b3361b;--rule:#1f2329;
--published:#8a5a00;--derived:#7a3fb0;--measured:#0b6e4f;--mark:#fff6dd}
*{box-sizing:border-box}
html{font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;color:var(--ink);background:var(--paper);-webkit-text-size-adjust:100%}
body{margin:0}
main{max-width:1180px;margin:0 auto;padding:28px 24px 40px}
footer{max-width:1180px;margin:0 auto;padding:16px 24px 40px;color:var(--soft);font-size:.85rem;border-top:1px solid var(--line)}
a{color:var(--link);text-underline-offset:2px}
h1{font-size:1rem;font-weight:600;margin:0;color:var(--soft)}
h2{font-size:1.25rem;line-height:1.3;margin:2.6em 0 .5em}
h3{font-size:1.02rem;margin:1.6em 0 .3em}
p{margin:.4em 0}
.question{color:var(--soft);max-width:75ch}
.verdict{font-size:1.5rem;line-height:1.35;font-weight:600;margin:.5em 0 .7em;max-width:66ch;letter-spacing:-.01em;overflow-wrap:anywhere}
.verdict .evidence{font-size:1.05rem;font-weight:400;letter-spacing:0}
.note{color:var(--soft);font-size:.88rem;font-weight:400}
.trust{display:flex;flex-wrap:wrap;gap:1px;background:var(--line);border:1px solid var(--line);border-radius:8px;overflow:hidden;margin:0 0 1.4em;font-size:.86rem}
.trust>div{background:var(--card);padding:8px 12px;flex:1 1 190px}
.trust .wide{flex-basis:100%}
.trust dt,.trust b{display:block;color:var(--soft);font-weight:500;font-size:.76rem;letter-spacing:.02em}
.trust .warn{box-shadow:inset 4px 0 0 var(--worse)}
.kind{display:inline-block;padding:0 .5em;border-radius:4px;font-size:.74rem;font-weight:600;line-height:1.55;white-space:nowrap;vertical-align:1px}
.kind.measured{color:var(--measured);border:1.5px solid var(--measured)}
.kind.published{color:var(--published);border:1.5px dashed var(--published)}
.kind.derived{color:var(--derived);border:1.5px dotted var(--derived)}
.tag{display:inline-block;padding:0 .45em;border-radius:4px;font-size:.72rem;font-weight:600;line-height:1.5;background:var(--line);color:var(--ink);white-space:nowrap}
.tag.saturated{background:var(--worse);color:var(--paper)}
.tag.bound{background:none;border:1.5px dashed var(--soft);color:var(--soft)}
.scroll{overflow-x:auto;margin:.6em 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:6px 12px 6px 0;text-align:right;vertical-align:top;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
th:last-child,td:last-child{padding-right:4px}
thead th{font-weight:500;color:var(--soft);font-size:.82rem;vertical-align:bottom;white-space:normal;min-width:5em}
tbody th{font-weight:600;max-width:24em;overflow:hidden;text-overflow:ellipsis}
td.text,th.text{text-align:left;white-space:normal}
td a{color:inherit;text-decoration-color:var(--line)}
td a:hover{text-decoration-color:currentColor}
table.lead td,table.lead th{padding-top:9px;padding-bottom:9px}
table.lead td>b,table.lead td>a{font-size:1.02rem;font-weight:600;text-decoration:none}
table.lead td>a:hover{text-decoration:underline}
.tall{max-height:75vh;overflow:auto}
.tall thead th{position:sticky;top:0;background:var(--paper);box-shadow:0 1px 0 var(--line);z-index:1}
.tall thead th.primary{background:var(--card)}
table.sweep td,table.sweep tbody th{padding-top:4px;padding-bottom:4px}
table.sweep tbody{border-top:2px solid var(--line)}
.value{display:block}
.said{display:block;font-size:.8rem;font-weight:600;margin-top:.2em}
table.lead .primary{background:var(--card);padding-left:12px}
.against{display:block;font-size:.8rem;color:var(--soft);font-weight:400}
.better{color:var(--better)}.worse{color:var(--worse)}
tbody th.point{white-space:normal;min-width:10em}
tr.off td,tr.off th{color:var(--soft)}
tr.fitted td,tr.fitted th{color:var(--soft);background:var(--card)}
tr.exempt td,tr.exempt th{color:var(--soft);font-style:italic}
figure{margin:1.4em 0;min-width:0}
figcaption{font-size:.98rem;line-height:1.45}
figcaption .kind{font-weight:500}
.plot{overflow-x:auto}
.plot svg{display:block;width:100%;min-width:700px;max-width:940px;height:auto}
.small .plot svg{min-width:340px;max-width:490px}
svg text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,500px),1fr));gap:4px 36px}
.grid figure{margin:.8em 0}
.key{list-style:none;display:flex;flex-wrap:wrap;gap:2px 16px;margin:4px 0 6px;padding:0;font-size:.84rem;color:var(--soft)}
.key li{display:flex;align-items:center;gap:6px;overflow-wrap:anywhere}
.key i{flex:none;width:14px;height:10px;border-radius:2px;display:inline-block}
.key .rule{background:var(--rule);height:3px}
details>summary{cursor:pointer;color:var(--soft)}
details.data>summary{font-size:.82rem}
details>summary h2,details>summary h3{display:inline;color:var(--ink)}
details.definitions{margin-top:2.6em}
details.point{border:1px solid var(--line);border-radius:8px;padding:10px 16px;margin:.7em 0}
details.point>summary p{color:var(--ink)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;font-size:.9rem}
dt{font-weight:600}dd{margin:0;color:var(--soft);max-width:80ch}
.warning{background:var(--mark);border-left:4px solid var(--published);padding:8px 12px;margin:.8em 0;font-size:.9rem}
nav{font-size:.86rem;display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:1.2em;color:var(--soft)}
@media (max-width:640px){main{padding:18px 14px 32px}.verdict{font-size:1.2rem}.verdict .evidence{font-size:1rem}h2{font-size:1.12rem}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.7em}
.trust>div{flex-basis:140px}tbody th{min-width:6.5em;max-width:10em;white-space:normal;overflow-wrap:break-word}}
@media (prefers-color-scheme:dark){:root{--paper:#13161a;--card:#1b1f25;--ink:#e8eaed;--soft:#a2abb7;--line:#2d333b;--link:#8ab8ff;--better:#5fd6a8;--worse:#ff8f70;
--rule:#e8eaed;--published:#f0bf5a;--derived:#cfa6ff;--measured:#5fd6a8;--mark:#2b2416}}
@media print{.plot,.scroll{overflow:visible}details{display:block}}
";

/// The style sheet of a page.
pub(crate) fn style() -> String {
    format!("{}{}", BASE.replace('\n', ""), colour::style())
}

#[cfg(test)]
mod tests {
    use super::BASE;
    use crate::figure::plot::{SMALL, WIDE};

    /// Charts are drawn with one size of text and scaled to fit: the same scale, the same size.
    #[test]
    fn the_text_of_small_charts_is_as_large_as_that_of_wide_ones() {
        let width = |selector: &str| -> u32 {
            let rule = BASE.lines().find(|line| line.starts_with(selector)).expect("the rule is there");
            let value = rule.split("max-width:").nth(1).and_then(|rest| rest.split("px").next());
            value.and_then(|value| value.parse().ok()).expect("with a width in pixels")
        };
        assert_eq!(width(".plot svg{") * SMALL.0, width(".small .plot svg{") * WIDE.0);
    }
}
