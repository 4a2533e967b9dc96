//! Who is there: tenants and adapters with their ranks and bytes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use aril_sim::random::stream;
use aril_sim::workload::{Adapter, AdapterId, Catalog, Tenant, TenantId};
use rand::RngExt;

use crate::build::Context;
use crate::error::{Place, TraceError, nearest, quoted};
use crate::input::Source;
use crate::popularity::{Law, Popularity};
use crate::read::required;
use crate::rows::Reader;
use crate::table::Table;
use crate::traffic::{Rank, Traffic};
use crate::workload::{Description, Who};

/// The rank of an adapter of which nobody says anything: Punica's.
const RANK: u32 = 16;
/// Who asks where nobody is named.
const NOBODY: &str = "(none)";

/// A table of adapters.
pub(crate) struct Listed {
    rows: Vec<ListedAdapter>,
}

struct ListedAdapter {
    name: String,
    tenant: Option<String>,
    rank: Option<u32>,
    bytes: Option<u64>,
}

impl Listed {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Reads `adapter` and, where there are such columns, `tenant`, `rank` and `bytes`.
    pub(crate) fn read(path: &Path) -> Result<Listed, TraceError> {
        let source = Source::file(path);
        let mut reader = Reader::new(path, source.open()?)?;
        let name = required(&reader, "adapter")?;
        let [tenant, rank, bytes] = ["tenant", "rank", "bytes"].map(|column| reader.find(column));
        reader.keep([Some(name), tenant, rank, bytes].into_iter().flatten())?;
        let mut rows = Vec::new();
        let mut seen = HashMap::new();
        while reader.advance()? {
            let field = reader.field(name);
            let Some(text) = field.name()? else {
                return Err(field.wrong("the name of an adapter", "name it, or delete the row"));
            };
            if let Some(before) = seen.insert(text.to_string(), reader.place()) {
                return Err(field.wrong(format!("a name that is not taken ({before})"), "list each adapter once"));
            }
            let present = |column: Option<usize>| column.map(|column| reader.field(column)).filter(|f| !f.is_missing());
            let rank = present(rank).map(|field| match field.count("a rank")? {
                0 => Err(field.wrong("a rank from 1 on", "correct the row")),
                rank => Ok(rank),
            });
            let tenant = present(tenant).map(|field| Ok(field.name()?.map(|name| name.into_owned())));
            rows.push(ListedAdapter {
                name: text.into_owned(),
                tenant: tenant.transpose()?.flatten(),
                rank: rank.transpose()?,
                bytes: present(bytes).map(|field| field.bytes()).transpose()?,
            });
        }
        if rows.is_empty() {
            return Err(TraceError::Empty { place: Place::file(path), detail: "; it should list adapters".into() });
        }
        Ok(Listed { rows })
    }
}

/// Names and their ids.
#[derive(Default)]
struct Tenants {
    list: Vec<Tenant>,
    ids: HashMap<String, TenantId>,
}

impl Tenants {
    fn id(&mut self, name: &str) -> TenantId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.add(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// One whose name nobody has, and nobody will ask for.
    fn add(&mut self, name: String) -> TenantId {
        self.list.push(Tenant { name, weight: 1.0, slo_class: 0 });
        TenantId(self.list.len() as u32 - 1)
    }
}

/// Lists tenants and adapters, and how requests refer to them.
pub(crate) fn build(
    traffic: &Traffic,
    context: &Context<'_>,
    table: Option<&Table>,
    clients: &[String],
    listed: Option<Listed>,
    law: Option<Law>,
    about: &mut Description,
) -> Result<(Catalog, Who), TraceError> {
    let popularity = traffic.popularity.as_ref().unwrap_or(&Popularity::Trace);
    let mut tenants = Tenants::default();
    let in_sessions = matches!(law, Some(Law::WorkingSet(_)));
    // Sessions have tenants of their own: those of the trace do not come.
    let names = table.and_then(|table| table.tenants.as_ref()).filter(|_| !in_sessions);
    let trace_tenants: Vec<TenantId> = names
        .iter()
        .flat_map(|names| &names.names)
        .chain(clients.iter().filter(|_| !in_sessions))
        .map(|name| tenants.id(name))
        .collect();
    let mut maker = Maker { traffic, context, adapters: Vec::new(), assumed: 0, drawn: 0, last_bytes: None };
    let mut who = Who { tenants: trace_tenants, adapters: Vec::new(), nobody: TenantId(0), law, by_tenant: false };
    for row in listed.iter().flat_map(|listed| &listed.rows) {
        let owner = row.tenant.as_ref().map(|name| tenants.id(name));
        maker.add(row.name.clone(), owner, row.rank, row.bytes);
    }
    match (&who.law, popularity) {
        (Some(law), _) => {
            if listed.is_none() {
                generated(&mut maker, &mut tenants, law, traffic, !who.tenants.is_empty());
            } else if (law.adapters() as usize) > maker.adapters.len() {
                let problem =
                    format!("the law draws {} adapters, the table lists {}", law.adapters(), maker.adapters.len());
                return Err(TraceError::setting("adapters", problem, "list more, or let the law draw fewer"));
            }
            if in_sessions && tenants.list.is_empty() {
                let problem = "the table of adapters names no tenants, and sessions are theirs";
                return Err(TraceError::setting("adapters", problem, "add a column `tenant`, or leave out the table"));
            }
            let (count, what) = (
                law.adapters(),
                if in_sessions { "tenants and adapters by working set" } else { "adapters by popularity law" },
            );
            about.assigned.push(format!("{what}: drawn from {count} adapters"));
        }
        (None, Popularity::Tenant) => {
            if who.tenants.is_empty() {
                let problem = "the trace names no tenants to give an adapter each";
                return Err(TraceError::setting("popularity", problem, "choose a law such as { zipf = { s = 0.9 } }"));
            }
            for position in 0..tenants.list.len() {
                let name = tenants.list[position].name.clone();
                maker.add(name, Some(TenantId(position as u32)), None, None);
            }
            who.by_tenant = true;
            about.assigned.push("one adapter for each tenant".into());
        }
        (None, Popularity::Base) => about.assigned.push("all requests go to the base model".into()),
        (None, _) => from_trace(table, listed.is_some(), &mut maker, &mut who, about)?,
    }
    maker.describe(about);
    let needs_nobody = tenants.list.is_empty()
        || names.is_some_and(|names| names.rows.contains(&crate::table::Names::NONE))
        || (who.tenants.is_empty() && maker.adapters.iter().any(|adapter| adapter.owner.is_none()))
        || (who.tenants.is_empty() && who.law.is_none());
    if needs_nobody {
        who.nobody = tenants.id(NOBODY);
    }
    Ok((Catalog { tenants: tenants.list, adapters: maker.adapters }, who))
}

/// Adapters with numbers for names, and their tenants if the trace has none.
fn generated(maker: &mut Maker<'_>, tenants: &mut Tenants, law: &Law, traffic: &Traffic, has_tenants: bool) {
    let adapters = law.adapters();
    if let Law::WorkingSet(law) = law {
        for tenant in 0..law.tenants {
            tenants.add(format!("tenant-{tenant}"));
        }
        for (adapter, owner) in law.owners().into_iter().enumerate() {
            maker.add(format!("adapter-{adapter}"), Some(TenantId(owner)), None, None);
        }
        return;
    }
    for adapter in 0..adapters {
        let owner =
            (!has_tenants).then(|| tenants.id(&format!("tenant-{}", adapter % traffic.tenants.unwrap_or(adapters))));
        maker.add(format!("adapter-{adapter}"), owner, None, None);
    }
}

/// The adapters that the trace names.
fn from_trace(
    table: Option<&Table>,
    is_listed: bool,
    maker: &mut Maker<'_>,
    who: &mut Who,
    about: &mut Description,
) -> Result<(), TraceError> {
    let Some(names) = table.and_then(|table| table.adapters.as_ref()) else {
        about.assigned.push("no adapters: the trace has none, so all requests go to the base model".into());
        return Ok(());
    };
    let ids: BTreeMap<String, u32> =
        maker.adapters.iter().enumerate().map(|(i, adapter)| (adapter.name.clone(), i as u32)).collect();
    for (position, name) in names.names.iter().enumerate() {
        let id = match ids.get(name) {
            Some(id) => *id,
            None if is_listed => {
                let problem = format!(
                    "the trace asks for {}, which is not in the table{}",
                    quoted(name),
                    nearest(name, ids.keys().map(String::as_str))
                );
                return Err(TraceError::setting("adapters", problem, "list every adapter of the trace"));
            }
            None => {
                let rank = table.and_then(|table| table.ranks.get(position).copied()).filter(|rank| *rank > 0);
                maker.add(name.clone(), None, rank, None)
            }
        };
        who.adapters.push(AdapterId(id));
    }
    if !is_listed {
        own(table, who, maker);
    }
    Ok(())
}

/// An adapter that one tenant alone uses is that tenant's.
fn own(table: Option<&Table>, who: &Who, maker: &mut Maker<'_>) {
    let Some((tenants, adapters)) = table.and_then(|table| table.tenants.as_ref().zip(table.adapters.as_ref())) else {
        return;
    };
    let mut users: Vec<Option<Option<TenantId>>> = vec![None; maker.adapters.len()];
    for row in 0..adapters.rows.len() {
        let (Some(tenant), Some(adapter)) = (tenants.get(row), adapters.get(row)) else { continue };
        let user = Some(who.tenants[tenant as usize]);
        let slot = &mut users[who.adapters[adapter as usize].index()];
        *slot = match slot {
            None => Some(user),
            Some(one) if *one == user => Some(user),
            Some(_) => Some(None),
        };
    }
    for (adapter, user) in maker.adapters.iter_mut().zip(users) {
        adapter.owner = user.flatten();
    }
}

/// Makes adapters: a rank that nobody names is drawn from the scenario's shares, by a stream of the adapter's own.
struct Maker<'a> {
    traffic: &'a Traffic,
    context: &'a Context<'a>,
    adapters: Vec<Adapter>,
    assumed: usize,
    drawn: usize,
    last_bytes: Option<(u32, u64)>,
}

impl Maker<'_> {
    fn add(&mut self, name: String, owner: Option<TenantId>, rank: Option<u32>, bytes: Option<u64>) -> u32 {
        let rank = rank.unwrap_or_else(|| self.rank(&name));
        let bytes = bytes.unwrap_or_else(|| self.bytes(rank));
        self.adapters.push(Adapter { name, rank, bytes, owner });
        self.adapters.len() as u32 - 1
    }

    /// The bytes of a rank, which most adapters share with the one before.
    fn bytes(&mut self, rank: u32) -> u64 {
        match self.last_bytes {
            Some((known, bytes)) if known == rank => bytes,
            _ => {
                let bytes = (self.context.adapter_bytes)(rank);
                self.last_bytes = Some((rank, bytes));
                bytes
            }
        }
    }

    fn rank(&mut self, name: &str) -> u32 {
        let shares = &self.traffic.ranks;
        if shares.is_empty() {
            self.assumed += 1;
            return RANK;
        }
        self.drawn += 1;
        if let (1, Some(Rank(rank))) = (shares.len(), shares.keys().next()) {
            return *rank;
        }
        let total: f64 = shares.values().sum();
        let mut left = total * stream(self.context.seed, &format!("traffic.rank/{name}")).random::<f64>();
        for (Rank(rank), weight) in shares {
            if left < *weight {
                return *rank;
            }
            left -= weight;
        }
        shares.iter().rev().find(|(_, weight)| **weight > 0.0).map_or(RANK, |(rank, _)| rank.0)
    }

    fn describe(&self, about: &mut Description) {
        if self.assumed > 0 {
            about.assigned.push(format!("rank {RANK} assumed for {} adapters", self.assumed));
        }
        if self.drawn > 0 && self.traffic.ranks.len() > 1 {
            about.assigned.push(format!("ranks of {} adapters drawn from the given shares", self.drawn));
        }
    }
}
