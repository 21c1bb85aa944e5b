//! Filters of traffic control that a daemon has left on interfaces, found by their handle and removed.

use futures::StreamExt as _;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcHandle, TcMessage};

use crate::HostError;
use crate::link::{Links, refused};

/// Removes the ingress filter with this number as handle and priority from every interface that has one; and where nothing is
/// filtered then, what filters hang from.
///
/// # Errors
/// [`HostError::Netlink`] when the kernel refuses; the first error.
pub async fn forget_filters(number: u16) -> Result<(), HostError> {
    let links = Links::open()?;
    let mut ended = Ok(());
    for interface in links.read().await?.interfaces {
        ended = ended.and(forget(&links, interface.index, number).await);
    }
    ended
}

async fn forget(links: &Links, interface: u32, number: u16) -> Result<(), HostError> {
    // Where nothing can hang filters from, none can be listed.
    let filters = links.filters(interface).await.unwrap_or_default();
    let ours = |filter: &&TcMessage| filter.header.handle == TcHandle::from(u32::from(number));
    let Some(ours) = filters.iter().find(ours) else { return Ok(()) };
    links.remove_filter(ours.clone()).await?;
    // Each filter is listed by itself, and once more by its kind and priority.
    let left = links.filters(interface).await.unwrap_or_default();
    if left.is_empty() { links.remove_clsact(interface).await } else { Ok(()) }
}

impl Links {
    /// All that hangs from an interface's `clsact`, of both directions.
    async fn filters(&self, interface: u32) -> Result<Vec<TcMessage>, HostError> {
        let index = i32::try_from(interface).map_err(refused("list filters"))?;
        let filters = || self.handle().traffic_filter(index).get();
        let mut all = crate::link::all(filters().ingress().execute(), "list filters").await?;
        all.extend(crate::link::all(filters().egress().execute(), "list filters").await?);
        Ok(all)
    }

    async fn remove_filter(&self, filter: TcMessage) -> Result<(), HostError> {
        let message = TcMessage::from_parts(filter.header, Vec::new());
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelTrafficFilter(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut answers = self.handle().clone().request(request).map_err(refused("remove a filter"))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(answer) = answer.payload
                && answer.code.is_some()
            {
                return Err(refused("remove a filter")(answer.to_io()));
            }
        }
        Ok(())
    }

    async fn remove_clsact(&self, interface: u32) -> Result<(), HostError> {
        let index = i32::try_from(interface).map_err(refused("remove clsact"))?;
        let mut request = self.handle().qdisc().del(index);
        request.message_mut().header.parent = TcHandle::CLSACT;
        request.execute().await.map_err(refused("remove clsact"))
    }
}
