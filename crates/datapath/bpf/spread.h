/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What a switch spreads connections by, as user space writes it: docs/decisions/0012. */
#pragma once

#include "datapath.h"

/* Who made cookies of one term, as a switch knows it. */
struct maker {
	__u32 term;
	__u16 node;
	__u8 over; /* enum over */
	__u8 pad;
};

/* Who made the cookies of one slot's flows: the maker in force, then those before it. */
struct slot_makers {
	__u16 makers[SLOT_MAKERS]; /* numbers; NO_NODE: none */
	__u8 heirs[SLOT_MAKERS];   /* of those that are over: the heir's place here, or NO_HEIR */
};

struct spread_page {
	struct slot_makers slots[SPREAD_PAGE];
};

/* What the switch spreads by. */
struct spread {
	__u64 unsettled_ns; /* until then a cookie may be of a maker that is not in force */
	__u64 refuse_ns;    /* without a distributor, SYNs are refused from then on */
	__u32 table;	    /* the one in use; NO_SPREAD: none yet */
	__u32 pad;
};

_Static_assert(sizeof(struct maker) == 8, "maker has no hidden padding");
_Static_assert(sizeof(struct slot_makers) == 24, "slot_makers has no hidden padding");
_Static_assert(sizeof(struct spread) == 24, "spread has no hidden padding");
