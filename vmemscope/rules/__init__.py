# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The rules: what must hold for the vmemmap of a pagemap.

:data:`CATALOGUE` has them all, with where each comes from in the kernel. The
modules beside this one evaluate them, one for each kind of fact: ``ranges``
(the pagemap itself), ``references`` (who keeps it), ``sections`` (what is valid),
``mapping`` (page-table entries), ``entries`` (the kernel's that processes have
copies of), ``backing`` (frames and their reference counts), ``frame_state`` (what
those are marked for), ``contents`` (the ``struct page``s themselves) and
``hugetlb``.
"""

from __future__ import annotations

from ..findings import Rule, Scope, Severity

__all__ = ("CATALOGUE", "rules_of")

_RULES = (
    Rule(
        "range-invalid",
        Severity.ERROR,
        "a pagemap's ranges are whole subsections of physical address space",
        "mm/memory_hotplug.c: check_pfn_span()",
        since="5.3",
        meaning="check_pfn_span() refuses to add memory that does not start and end on a"
        " subsection boundary, so no running kernel has such a pagemap: the struct dev_pagemap was"
        " overwritten or freed, or the entry of pgmap_array that led here is stale. Nothing that"
        " follows from the range (its part of the vmemmap, its frames) can be gone by, and it is"
        " not looked at.",
        look_at="The bytes around the address: a freed slab object has the poison or the free"
        " pointer of its cache. Compare the ranges with /proc/iomem and with the driver's own"
        " (struct dev_dax: ranges; struct nd_namespace_io: res).",
    ),
    Rule(
        "range-overlap",
        Severity.ERROR,
        "no two ranges of pagemaps overlap",
        "mm/memremap.c: pagemap_range()",
        meaning="Two drivers believe that they own the same page frames. Their struct pages are"
        " the same memory, initialised by one and then by the other; the last one to go frees the"
        " memory map under the other. memremap_pages() refuses a range that intersects a pagemap"
        " or System RAM, so one of the two structures was changed later, or is stale.",
        look_at="Which of the two agrees with pgmap_array (rule xarray) and with /proc/iomem: the"
        " other is wrong.",
    ),
    Rule(
        "nr-range",
        Severity.ERROR,
        "the number of ranges is one that a driver can make",
        "mm/memremap.c: memremap_pages()",
        since="5.10",
        meaning="memremap_pages() counts nr_range up while it brings ranges online; no driver"
        " makes thousands. A wild number means that the struct dev_pagemap was overwritten, or"
        " that this is none. A walk over its ranges, such as memunmap_pages() does, runs off its"
        " end.",
        look_at="The structure as a whole (drgn: Object(prog, 'struct dev_pagemap', address=...)):"
        " whether type, ops and owner make sense tells damage to one field from an address that is"
        " wrong.",
    ),
    Rule(
        "vmemmap-shift",
        Severity.ERROR,
        "a compound page is no larger than its pagemap",
        "mm/memremap.c: memremap_pages()",
        since="5.17",
        meaning="vmemmap_shift says how large compound pages are, and so how the vmemmap of the"
        " pagemap was populated. Too large, it was not what memremap_pages() went by: the field"
        " has changed since. On teardown the kernel computes references and section populations"
        " from it, and gets both wrong.",
        look_at="The alignment of the device that the pagemap is of"
        " (/sys/bus/dax/devices/*/align): vmemmap_shift is log2 of it in pages. What the page"
        " tables say of compound pages is in the vmemmap, which is still walked for holes.",
    ),
    Rule(
        "pagemap-ref-low",
        Severity.ERROR,
        "a pagemap has a reference for each of its compound pages, or base pages",
        "mm/memremap.c: pagemap_range(), percpu_ref_get_many()",
        since="5.10",
        meaning="memremap_pages() takes a reference on the pagemap (struct dev_pagemap: ref) for"
        " each page that its driver may hand out, and memunmap_pages() gives them all back. With"
        " fewer than that somebody gave one back that was not his: when the device is removed, the"
        " count falls through zero, percpu_ref warns ('percpu ref ... <= 0'), and the pagemap goes"
        " while its pages are in use.",
        look_at="By how much it is off: one points to a put_dev_pagemap() too many (an error path"
        " of get_user_pages(), memory failure handling), the pages of a range to a"
        " memunmap_pages() that ran for half of the pagemap, and anything wild to per-CPU memory"
        " that was overwritten.",
    ),
    Rule(
        "pagemap-ref-high",
        Severity.WARNING,
        "a pagemap has no more references than compound pages, or base pages, or it never goes",
        "mm/memremap.c: get_dev_pagemap(), memunmap_pages()",
        since="5.10",
        meaning="Somebody holds a reference on the pagemap that no page accounts for. Removing the"
        " device waits for it in memunmap_pages(), in the state D, until it is given back. Looking"
        " a page up (get_user_pages(), memory failure handling) takes one for a moment, so it may"
        " be no fault if the kernel was at it just then.",
        look_at="Whether it is still so in a moment; whether a task is in get_user_pages() or"
        " memory_failure() (their stacks); which error path lacks a put_dev_pagemap().",
    ),
    Rule(
        "xarray",
        Severity.ERROR,
        "the entries of pgmap_array are the frames of the pagemaps' ranges",
        "mm/memremap.c: pagemap_range(), xa_store_range()",
        scope=Scope.PAGEMAP | Scope.TARGET,
        meaning="get_dev_pagemap() looks a page frame up in pgmap_array. Entries that lie outside"
        " of the ranges hand out a pagemap for memory that is not its own; page frames without an"
        " entry look like no device memory at all. Either is a half-done memremap_pages() or"
        " pageunmap_range(), or damage to the XArray: a stale entry is a use after free waiting"
        " for the next lookup.",
        look_at="Whether a device is coming or going at this very moment (the percpu_ref of the"
        " pagemap is dead). If not: the nodes of the XArray (mm/memremap.c: pgmap_array,"
        " lib/xarray.c), their parent and count fields.",
    ),
    Rule(
        "resource-tree",
        Severity.ERROR,
        "the resources below iomem_resource form a tree",
        "kernel/resource.c: __request_resource()",
        scope=Scope.TARGET,
        meaning="The tree below iomem_resource (/proc/iomem) has a child outside of its parent, a"
        " cycle, or more entries than can be. What is System RAM can't be told from it, so checks"
        " that ask whether a frame is memory may find too little. The kernel itself walks this"
        " tree when memory is added, removed or mapped, and may loop for ever.",
        look_at="The struct resource at the address, its parent and its sibling: an entry that was"
        " freed without release_resource() is the usual cause, most often by a driver's error"
        " path.",
    ),
    Rule(
        "kernel-entries",
        Severity.ERROR,
        "all processes have the top-level page-table entries for the vmemmap that the kernel has",
        "arch/x86/mm/init_64.c: sync_global_pgds()",
        archs=("x86_64",),
        scope=Scope.TARGET,
        meaning="Each process has a top-level page table of its own, with copies of the kernel's"
        " entries. When the vmemmap grows into a new one (512 GiB with four levels of tables, 256"
        " TiB with five), the kernel copies it to all processes. Where it is missing, the kernel"
        " takes a fault that nobody handles as soon as it touches a struct page there on behalf of"
        " that process; where it is another, struct pages written by one process are not what"
        " another one reads.",
        look_at="Whether the kernel has the fix of 6.17, 6.12.46 and 6.1.151 (x86/mm/64: define"
        " ARCH_PAGE_TABLE_SYNC_MASK and arch_sync_kernel_mappings()); whether it is one process"
        " (its page table was overwritten) or all that are older than the device.",
    ),
    Rule(
        "section-alignment",
        Severity.WARNING,
        "compound pages larger than a section start on a section boundary, and not in a section"
        " that was there at boot",
        "mm/sparse-vmemmap.c: reuse_compound_section()",
        since="5.19",
        archs=("x86_64", "riscv64"),
        meaning="Compound pages larger than a section (1 GiB on x86) need the range to start on a"
        " section boundary. These kernels do not check it: reuse_compound_section() goes by the"
        " offset in the range, while sections are cut at absolute boundaries, so a chunk that"
        " holds the head of a compound page can be taken for one that only continues the last. All"
        " heads but the first then lie in the frame of the tail pages: struct pages overwrite each"
        " other, and faults of 1 GiB go wrong. In a section that was there at boot, the entry that"
        " is copied is not even a page table entry, and the rest of the memory map ends up on page"
        " frame 0.",
        look_at="The findings of the same pagemap: frame-shared or frame-not-memory say that the"
        " damage is done. Make the namespace start on a boundary of the section, better of the"
        " compound page (ndctl create-namespace --align), or use 2 MiB pages, where this can't"
        " happen.",
    ),
    Rule(
        "mask-alignment",
        Severity.WARNING,
        "where tail pages find their head by a mask, compound pages are aligned to their size",
        "include/linux/page-flags.h: compound_info_has_mask()",
        since="7.1",
        meaning="Since 7.1 tail pages do not point to their head, they hold a mask for their own"
        " address (compound_info), if HugeTLB's vmemmap optimization is built in. That only works"
        " for compound pages aligned to their size, while those of a device are laid out from the"
        " start of its range: every tail page of such a device resolves to a wrong head, maybe of"
        " another device. vmf_insert_folio_pud() warns, faults of 1 GiB get SIGBUS,"
        " get_user_pages() counts references on a foreign page.",
        look_at="Where the range starts: with a namespace of type devdax and map=mem it is the"
        " start of the namespace, not of its data. Make the namespace start on a boundary of its"
        " alignment, or take map=dev, where compound pages start with the data.",
    ),
    Rule(
        "subsection-map",
        Severity.ERROR,
        "all page frames of a pagemap are in valid subsections of present sections",
        "mm/sparse.c: fill_subsection_map()",
        since="5.3",
        scope=Scope.PAGEMAP | Scope.MEMORY_MAP,
        meaning="pfn_valid() is false for memory that a driver holds: pfn_to_online_page(), memory"
        " failure handling, hotplug and page walkers skip it, and a later add of the same"
        " subsections would populate its memory map a second time and leak the first.",
        look_at="Which subsections are missing (struct mem_section: usage->subsection_map, a bit"
        " for each 2 MiB): those of a neighbour that was removed point to section_deactivate()"
        " having cleared too much.",
    ),
    Rule(
        "section-stale",
        Severity.ERROR,
        "what became valid after boot is System RAM or in a pagemap",
        "mm/sparse.c: section_deactivate(), clear_subsection_map()",
        since="5.3",
        scope=Scope.MEMORY_MAP,
        meaning="Subsections are valid that belong to no pagemap and no System RAM: a driver went,"
        " and arch_remove_memory() did not finish. pfn_valid() lets page walkers at struct pages"
        " that describe nothing, and the memory for them is lost until the next boot.",
        look_at="The kernel's log for a warning of section_deactivate() or __remove_pages();"
        " whether a device is going at this very moment; which driver last had the range"
        " (/proc/iomem of an earlier boot).",
    ),
    Rule(
        "section-map",
        Severity.ERROR,
        "all present sections have their memory map in the one vmemmap",
        "mm/sparse.c: sparse_encode_mem_map(), SPARSEMEM_VMEMMAP",
        scope=Scope.MEMORY_MAP,
        meaning="With SPARSEMEM_VMEMMAP, section_mem_map less its flags is the same for all"
        " sections, the start of the vmemmap. A section that differs was overwritten, or vmemscope"
        " misunderstands this kernel's flag bits. SPARSEMEM code that goes by it (kdump tools, for"
        " example) finds its struct pages in the wrong place.",
        look_at="The struct mem_section and its neighbours in the same root: one word off is"
        " damage, all of a root off points to the root's pointer.",
    ),
    Rule(
        "section-usage",
        Severity.ERROR,
        "a section with a memory map says which of its subsections are valid",
        "mm/sparse.c: section_deactivate()",
        since="5.3",
        scope=Scope.MEMORY_MAP,
        meaning="A section has SECTION_HAS_MEM_MAP but no usage: pfn_valid() for a page in it"
        " follows a null pointer. Up to 6.7, and in stable trees before 6.6.15 and 6.1.76,"
        " section_deactivate() could leave it so for a moment (CVE-2023-52489); anything that"
        " lasts is damage.",
        look_at="Whether the kernel has the fix (mm/sparsemem: fix race in accessing"
        " memory_section->usage), and whether memory was being removed.",
    ),
    Rule(
        "section-unmapped",
        Severity.ERROR,
        "the memory map of valid subsections, and of whole sections that were there at boot,"
        " is mapped",
        "mm/sparse.c: sparse_init_nid(), section_activate()",
        scope=Scope.MEMORY_MAP,
        meaning="pfn_valid() says that these struct pages are there, and they are not: the first"
        " page walker to touch one (compaction, memory failure, /proc/kpageflags) takes a fault in"
        " kernel mode.",
        look_at="Whether the part that is not mapped is a whole leaf (vmemmap freed with its"
        " neighbour, see the arm64 fix in 6.14 for sections not aligned) or single pages (failed"
        " population, not rolled back).",
    ),
    Rule(
        "vmemmap-leak",
        Severity.ERROR,
        "nothing of the vmemmap is mapped where no section is present",
        "mm/sparse.c: section_deactivate(), depopulate_section_memmap()",
        scope=Scope.MEMORY_MAP,
        meaning="Vmemmap that describes nothing: the section or pagemap it was made for has gone"
        " and its memory map has not. The memory is lost until the next boot. loongarch never"
        " frees it; elsewhere it is a teardown that went wrong.",
        look_at="The size: whole leaves point to section_deactivate() not reached, single pages to"
        " an error path of vmemmap_populate_compound_pages(); the kernel's log around the last"
        " device removal.",
    ),
    Rule(
        "memmap-counter",
        Severity.WARNING,
        "nr_memmap_pages and nr_memmap_boot_pages are what the kernel's own arithmetic makes of"
        " the memory map that is there",
        "mm/sparse-vmemmap.c: section_nr_vmemmap_pages(); mm/vmstat.c",
        since="6.11",
        scope=Scope.MEMORY_MAP,
        meaning="/proc/vmstat tells another amount of memory map than there is. Nothing breaks,"
        " but who watches memory is misled. Before 6.12.101 and 7.2, pages that deduplication"
        " saves are counted as if they were there, and an add that fails is taken off without"
        " having been added.",
        look_at="The difference in pages: exactly what deduplication saves is the known accounting"
        " of older kernels; a negative counter is an error path.",
    ),
    Rule(
        "hole",
        Severity.ERROR,
        "all of the vmemmap that describes a pagemap is mapped",
        "mm/sparse-vmemmap.c: __populate_section_memmap()",
        meaning="Some struct pages of the device are not there. The first access (initialisation,"
        " a fault on the device, page walkers) is an oops in kernel mode. On a device that is"
        " coming or going this is a moment's state; on one that is in use, population was not"
        " finished or somebody freed a neighbour's memory map.",
        look_at="The length: one page is a lost page table entry, 512 a page table or a large"
        " leaf. Whether the neighbours' struct pages are initialised, and whether another device"
        " in the same section was removed (section_deactivate() frees by subsection).",
    ),
    Rule(
        "leaf-size",
        Severity.ERROR,
        "only the memory map of whole sections without deduplication has large leaves",
        "arch/x86/mm/init_64.c: vmemmap_populate()",
        archs=("x86_64",),
        meaning="Where tail pages are to share frames, or a section is only partly the device's,"
        " the kernel maps base pages. A large leaf there means that deduplication did not take"
        " place, or that the entry was written by something else; what it maps may be a"
        " neighbour's.",
        look_at="The entry itself and what its frames hold: struct pages of this device (populated"
        " in another way than this kernel should) or anything else (a corrupted page table).",
    ),
    Rule(
        "leaf-fallback",
        Severity.NOTE,
        "the memory map of a whole section without deduplication has large leaves",
        "mm/sparse-vmemmap.c: vmemmap_populate_hugepages()",
        archs=("x86_64",),
        meaning="Nothing is wrong: the kernel found no free block of 2 MiB when the device was"
        " added, and took base pages. It costs a page table of 4 KiB and TLB entries.",
        look_at="Fragmentation when the device was added (/proc/buddyinfo). With an altmap it is"
        " not expected at all.",
    ),
    Rule(
        "read-only",
        Severity.ERROR,
        "the vmemmap of device memory is writable",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate()",
        meaning="The kernel writes to struct pages all the time: an entry of a device's vmemmap"
        " without write permission is an oops at the next reference count. Only HugeTLB's vmemmap"
        " optimization makes vmemmap read-only, and it has no business with a device's.",
        look_at="Whether HugeTLB folios lie next to the device, and whose frame the entry maps: a"
        " remapping that hit the wrong range, or a bit flip.",
    ),
    Rule(
        "executable",
        Severity.ERROR,
        "the vmemmap can't be executed",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate()",
        meaning="The kernel maps its memory map no-execute (PAGE_KERNEL). An executable entry is a"
        " hole in W^X: data that user space can influence could be run. It works as well as"
        " before, so nobody else will notice.",
        look_at="Whether the page table above has the bit too; whether other entries of the same"
        " table are executable: one is damage, all are a wrong pgprot.",
    ),
    Rule(
        "not-deduplicated",
        Severity.ERROR,
        "the tail pages of a compound page share one frame",
        "mm/sparse-vmemmap.c: vmemmap_populate_compound_pages()",
        since="5.19",
        archs=("x86_64", "riscv64"),
        meaning="The pagemap has compound pages and nothing else stands in the way, yet each page"
        " of its vmemmap has a frame of its own: the memory that deduplication should save is not"
        " saved. The kernel works all the same.",
        look_at="vmemmap_can_optimize() of this kernel, and its configuration"
        " (CONFIG_ARCH_WANT_OPTIMIZE_DAX_VMEMMAP, CONFIG_ARCH_WANT_HUGETLB_PAGE_OPTIMIZE_VMEMMAP"
        " before 6.6).",
    ),
    Rule(
        "tail-frame",
        Severity.ERROR,
        "all tail pages of a compound page map the same frame",
        "mm/sparse-vmemmap.c: vmemmap_populate_compound_pages()",
        since="5.19",
        archs=("x86_64", "riscv64"),
        meaning="A tail page is written to, or read from, a frame that is not its compound page's:"
        " its struct page shows something else's contents, and compound_head() of it leads"
        " elsewhere. If the frame is in use by somebody else, initialising the device overwrote"
        " it, and removing the device drops a reference that is not its own.",
        look_at="Whose frame it is: the compound page's own head (population slipped by one"
        " entry), another compound page's (wrong reuse), or a frame of somebody else (corrupted"
        " entry). The reference counts of both frames tell which is older.",
    ),
    Rule(
        "frame-shared",
        Severity.ERROR,
        "a frame backs one head page, or the tail pages of one compound page, or one plain page",
        "mm/sparse-vmemmap.c: vmemmap_populate_compound_pages()",
        since="5.19",
        meaning="Two owners write their struct pages to the same frame: the later one overwrote"
        " the earlier. Heads lose PG_head, their pagemap and their reference count; a fault on one"
        " device changes the state of the other. When one is removed, the frame is freed under the"
        " other.",
        look_at="Whether the owners are of one pagemap (a layout that the kernel gets wrong, rule"
        " section-alignment) or of several (a corrupted entry, or a frame that was freed and used"
        " again, rule refcount-low).",
    ),
    Rule(
        "frame-not-memory",
        Severity.ERROR,
        "the vmemmap is backed by System RAM, or by the device that an altmap lies on",
        "mm/sparse-vmemmap.c: vmemmap_alloc_block_buf()",
        meaning="An entry of the vmemmap maps a frame that the kernel could never have allocated:"
        " page frame 0, a hole in physical memory, or device memory. Struct pages written there"
        " are lost, or worse, go to a device's registers. Thousands of entries on one such frame"
        " are a known bug (rule section-alignment).",
        look_at="The frame number: 0 is a page table entry read from the wrong place; a number"
        " with a single wrong bit is a flip; one within a device is an altmap's where none should"
        " be.",
    ),
    Rule(
        "altmap-frame",
        Severity.ERROR,
        "an altmap hands out frames from behind its reserve, as many as it has",
        "mm/sparse-vmemmap.c: altmap_alloc_block_buf()",
        meaning="The memory map of the device lies on it, but outside of what the altmap may hand"
        " out: it overwrites the namespace's metadata in front of it, or its data behind it. That"
        " is data loss.",
        look_at="The altmap's arithmetic (base_pfn + reserve + alloc + align) against the"
        " boundaries of the namespace; on powerpc, whether the kernel has the altmap boundary"
        " fixes (6.1.39, 6.1.45).",
    ),
    Rule(
        "refcount-low",
        Severity.ERROR,
        "a frame's reference count is no less than the number of entries that map it,"
        " or it is freed while still mapped",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate(), get_page()",
        meaning="More entries map the frame than hold a reference to it. When the device is"
        " removed, each entry drops one, and the frame goes back to the page allocator while"
        " others still map it: struct pages and somebody else's data then share it. With a count"
        " of 0 it is free already.",
        look_at="What the frame is now: on a free list or in use by somebody else means that the"
        " damage is done. How many entries are missing a reference, and whether they are of one"
        " section: a missing get_page() in population, or a double free in an error path.",
    ),
    Rule(
        "refcount-high",
        Severity.ERROR,
        "a frame's reference count is no more than the number of entries that map it,"
        " or it is never freed",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate(), get_page()",
        meaning="The frame is referenced more often than it is mapped. Removing the device will"
        " not free it: memory is lost until the next boot. Page walkers and memory failure"
        " handling take a reference for a moment, so on a running kernel one too many may be no"
        " fault.",
        look_at="Whether it is still so in a moment; whether entries elsewhere in the vmemmap map"
        " the frame too; how much the count is off: by the entries of a section or a compound page"
        " points to a teardown that did not finish.",
    ),
    Rule(
        "frame-free",
        Severity.ERROR,
        "a frame that backs the vmemmap is not in the buddy allocator",
        "mm/page_alloc.c: prep_new_page(), __free_one_page()",
        meaning="The frame is on a free list of the page allocator while the vmemmap maps it: the"
        " next allocation gets it, and then struct pages and somebody else's data are the same"
        " memory. Whoever writes second destroys what the other wrote.",
        look_at="Its reference count: 0 is a put_page() too many (rule refcount-low), and the frame"
        " went back when it dropped; otherwise the marks in its struct page were overwritten, or"
        " it was freed without regard to the count (free_pages() of a neighbour's block).",
    ),
    Rule(
        "frame-foreign",
        Severity.ERROR,
        "a frame that backs the vmemmap is marked as nobody else's",
        "mm/sparse-vmemmap.c: vmemmap_alloc_block()",
        meaning="The struct page of the frame says that it is part of a slab, a page table, a huge"
        " page or a page cache, or that a process maps it. It was freed under the vmemmap and"
        " given out again: both owners write to it.",
        look_at="Whose it is now (vmemscope page with its number), and what is in it: struct pages"
        " mean that the new owner has not written yet. Then how it came to be freed: rule"
        " refcount-low for the same frame, or for others of the same device.",
    ),
    Rule(
        "frame-poisoned",
        Severity.ERROR,
        "a frame that backs the vmemmap is neither poisoned nor offline",
        "mm/memory-failure.c: memory_failure()",
        meaning="The memory behind these struct pages had an uncorrectable error (PG_hwpoison), or"
        " was taken from the kernel (PageOffline: a balloon, virtio-mem). Reading struct pages in"
        " it may raise a machine check, in the kernel, for which there is no recovery.",
        look_at="The kernel log for 'Memory failure' and the frame's number: memory_failure() can't"
        " handle a frame of the vmemmap, so the device has to be taken down. HardwareCorrupted in"
        " /proc/meminfo counts such frames.",
    ),
    Rule(
        "frame-node",
        Severity.NOTE,
        "the vmemmap is on the device's own node, if that has memory",
        "mm/sparse-vmemmap.c: vmemmap_alloc_block()",
        meaning="The memory map of the device is on another node, as the device's own had no"
        " memory left when it came up. Nothing is wrong, but each look at one of these struct"
        " pages goes over the interconnect: faults, pinning and migration are slower.",
        look_at="Free memory of the node (/sys/devices/system/node/nodeN/meminfo), and the kernel"
        " log for 'memory hotplug' and 'vmemmap alloc failure'. Taking the device down and up"
        " again when there is room moves it.",
    ),
    Rule(
        "head-flag",
        Severity.ERROR,
        "the head of a compound page has PG_head and is no tail",
        "mm/page_alloc.c: prep_compound_page(), memmap_init_compound()",
        since="5.17",
        meaning="The first struct page of a compound page does not look like a head: PG_head is"
        " clear, or the page says that it is a tail. page_folio() and compound_order() then treat"
        " 2 MiB or 1 GiB as one base page; faults and reference counts go to the wrong page.",
        look_at="Which other rules fail for it: with frame-shared, it was overwritten by tail"
        " pages; alone, the flags word was. Uninitialised struct pages (all ones, or all zeros)"
        " point to memmap_init_zone_device() not having come that far.",
    ),
    Rule(
        "compound-head",
        Severity.ERROR,
        "tail pages resolve to the head of their compound page",
        "include/linux/page-flags.h: compound_head()",
        since="5.17",
        meaning="compound_head() of a tail page leads to a page that is not its head. Whoever"
        " reaches the page by its frame number (get_user_pages(), memory failure, O_DIRECT) counts"
        " its reference on another page, maybe of another device: that one may be freed while in"
        " use, this one never.",
        look_at="What the wrong head is: the same for all tail pages and aligned below the right"
        " one is the mask of 7.1+ on an unaligned device (rule mask-alignment); that of a"
        " neighbour points to a shared frame; zeros or stale contents to tail pages that were"
        " never initialised (sections that were there at boot, before 6.1.184, 6.12.97 and 7.2).",
    ),
    Rule(
        "compound-order",
        Severity.ERROR,
        "a compound page's order is the pagemap's vmemmap_shift",
        "mm/mm_init.c: memmap_init_compound(), prep_compound_head()",
        since="5.17",
        meaning="The order in the first tail page is not that of the pagemap's compound pages:"
        " compound_nr() is wrong, and whoever walks or splits the folio runs over its end or stops"
        " short.",
        look_at="Whether the first tail page was overwritten as a whole (compare it with another"
        " compound page's), or whether the pagemap's vmemmap_shift changed.",
    ),
    Rule(
        "pgmap-link",
        Severity.ERROR,
        "heads of compound pages, and base pages, point back to their pagemap",
        "mm/mm_init.c: __init_zone_device_page()",
        meaning="A page of the device does not point to its pagemap (page->pgmap; folio->pgmap"
        " since 6.15): freeing the page calls another pagemap's ops and drops another's reference,"
        " or follows a pointer to freed memory. Of compound pages only the head has the pointer;"
        " nor do the pages that an altmap takes have it, nor the tails of folios that a driver"
        " made of base pages.",
        look_at="What the pointer is: another pagemap's address (a shared frame, or a stale memory"
        " map of a device that was there before), or no pointer at all (the word is shared with"
        " lru and compound_head: was the page taken for an ordinary one?).",
    ),
    Rule(
        "stray-head",
        Severity.ERROR,
        "PG_head is set in the heads of compound pages and nowhere else",
        "mm/mm_init.c: memmap_init_compound(), prep_compound_tail()",
        meaning="A tail page, or a base page, has PG_head: page_folio() and PageHead() take it for"
        " a compound page of its own, of whatever order the next struct page happens to hold."
        " Reference counts and mappings then go to the wrong page. Tail pages that look like heads"
        " are usual for HugeTLB's optimization from 5.18 to 7.0, never for a device's. Folios that"
        " drivers make of base pages (fsdax since 6.15, device-private memory) are not asked"
        " about.",
        look_at="Whether the whole struct page is a head's (pagemap pointer, reference count: a"
        " head was written to the wrong frame, rule frame-shared) or only the bit is set. With"
        " tail pages that share a frame, every tail page of the compound page shows it.",
    ),
    Rule(
        "tail-contents",
        Severity.ERROR,
        "all tail pages of a compound page that share a frame are alike, but for the first few",
        "mm/mm_init.c: memmap_init_compound(), compound_nr_pages()",
        since="5.19",
        archs=("x86_64", "riscv64"),
        meaning="The struct pages in the frame that tail pages share were written once and are"
        " never written again: whatever is done to a compound page is done to its head and the"
        " first tail pages, which have a frame of their own. One that differs was written to,"
        " through an entry that should not have been written through, or by somebody who took the"
        " frame for his own; what was meant for one page shows in all that share the frame.",
        look_at="Which word differs: a counter or a mapping is somebody who takes a tail page for a"
        " page of its own (a missing compound_head()); a list or data of another kind point to the"
        " frame being used for something else (rule refcount-low).",
    ),
    Rule(
        "page-refcount",
        Severity.ERROR,
        "tail pages have no references, other pages no fewer than when nobody uses them",
        "mm/memremap.c: free_zone_device_folio(), mm/mm_init.c: __init_zone_device_page()",
        meaning="References are counted on the head. One on a tail page was taken without"
        " compound_head(), and whoever drops it with it takes one too many from the head. A page"
        " with fewer than when it is idle (1 for device-dax, and for fsdax before 6.15; 0 for"
        " memory that its driver hands out) was put once too often: it counts as free while"
        " somebody uses it. More than that is a page in use, and nothing wrong.",
        look_at="Who uses the device (mappings, get_user_pages(), O_DIRECT, RDMA) and whether the"
        " count of the head is off by as much the other way.",
    ),
    Rule(
        "page-zone",
        Severity.ERROR,
        "the pages of a device are marked as in ZONE_DEVICE, all on one node, and as reserved",
        "mm/mm_init.c: memmap_init_zone_device(), __init_zone_device_page()",
        meaning="page->flags do not say that the page is device memory. page_zone() and"
        " page_to_nid() lead to another zone: compaction, page walkers and memory failure handling"
        " take the page for RAM; without PG_reserved the page allocator may, too. In another zone"
        " it was never initialised for the device, and nothing more is asked of it.",
        look_at="Whether it is single pages (a write to their flags), or all from the 129th of a"
        " compound page on: in a section that was there at boot, kernels before 6.1.184, 6.12.97"
        " and 7.2 initialise the first 128 only.",
    ),
    Rule(
        "page-uninitialised",
        Severity.ERROR,
        "the struct pages of device memory were initialised",
        "mm/mm_init.c: memmap_init_zone_device(); mm/page_alloc.c: page_init_poison()",
        meaning="A struct page is all zeros, as its memory came from the page allocator, or all"
        " ones (PAGE_POISON_PATTERN), as debugging kernels leave what nobody has initialised yet."
        " pfn_valid() lets page walkers at it: all ones trips VM_BUG_ON_PGFLAGS() or leads to a"
        " zone and a node that there are not, zeros look like a page of node 0 that is free."
        " Nothing more is asked of it.",
        look_at="How many there are and where they begin: from some page on to the end is an"
        " initialisation that did not finish, or has not yet (a device that is coming); the 129th"
        " of each compound page on is the bug with sections that were there at boot (rule"
        " page-zone); a single frame was overwritten, or lost what was in it.",
    ),
    Rule(
        "hugetlb-list",
        Severity.ERROR,
        "the lists of a size of huge pages can be followed, and hold heads of its folios",
        "mm/hugetlb.c: enqueue_hugetlb_folio(), __prep_new_hugetlb_folio()",
        scope=Scope.HUGETLB,
        meaning="A list of HugeTLB folios leads to something that is no HugeTLB folio of its size,"
        " to one twice, or nowhere. The next allocation from the pool takes what is there for a"
        " huge page, and hands out memory that is somebody else's.",
        look_at="The struct page at the address: all of it overwritten (then by whom: an optimized"
        " folio whose vmemmap was restored wrongly has tail pages where its head should be), or"
        " one word.",
    ),
    Rule(
        "hugetlb-count",
        Severity.WARNING,
        "as many folios are on the lists of free ones as the kernel counts, and no more in all",
        "mm/hugetlb.c: add_hugetlb_folio(), remove_hugetlb_folio()",
        scope=Scope.HUGETLB,
        meaning="What /sys/kernel/mm/hugepages says of the pool is not what is in it. With more"
        " counted than there are, an allocation that counts on a free folio finds none.",
        look_at="Whether the pool is being resized at this very moment; else the difference, and"
        " which list it is on.",
    ),
    Rule(
        "hugetlb-elsewhere",
        Severity.NOTE,
        "each folio is on the list of those that are free or of those in use",
        "mm/hugetlb.c: folio_isolate_hugetlb(), remove_hugetlb_folio()",
        scope=Scope.HUGETLB,
        meaning="Nothing is wrong by itself: a folio that is being migrated, demoted, allocated or"
        " freed is on neither list for a while. One that is not optimized can't be found then, only"
        " missed.",
        look_at="Whether it is still so in a moment: a folio that stays isolated was leaked by"
        " whoever isolated it.",
    ),
    Rule(
        "hugetlb-flag",
        Severity.ERROR,
        "a folio says that its vmemmap is optimized if and only if it is",
        "mm/hugetlb_vmemmap.c: hugetlb_vmemmap_optimize_folio(), hugetlb_vmemmap_restore_folio()",
        since="5.14",
        scope=Scope.HUGETLB,
        meaning="HPG_vmemmap_optimized decides whether the vmemmap is restored before the folio is"
        " given back. Set without need, frames are allocated for nothing, and the old ones are"
        " lost. Clear while tail pages are read-only, the folio is freed as it is, and the first"
        " write to one of its struct pages is an oops in kernel mode.",
        look_at="Whether an optimization or restoration is under way, or failed half-way for want"
        " of memory (mm/hugetlb_vmemmap.c: vmemmap_remap_alloc()). 6.1.47, 6.4.11 and 6.5 have a"
        " fix for folios that were no longer marked while still optimized.",
    ),
    Rule(
        "hugetlb-mapping",
        Severity.ERROR,
        "of an optimized folio's vmemmap the head page is writable, all else read-only, nothing"
        " executable",
        "mm/hugetlb_vmemmap.c: vmemmap_remap_pte()",
        since="5.14",
        scope=Scope.HUGETLB,
        meaning="A tail page that can be written through changes the struct pages of all others"
        " that share its frame; a head page that can't be is an oops when the folio is next"
        " allocated; a hole is one for whoever looks.",
        look_at="How many entries of the folio are so: one is damage to a page table entry, some in"
        " a row an interrupted optimization or restoration.",
    ),
    Rule(
        "hugetlb-tail-frame",
        Severity.ERROR,
        "the tail pages of an optimized folio map the frame that they should share",
        "mm/hugetlb_vmemmap.c: vmemmap_remap_free(), vmemmap_get_tail()",
        since="5.14",
        scope=Scope.HUGETLB,
        meaning="Up to 7.0 tail pages map the frame of their folio's head page (5.14 to 5.17: the"
        " one after it), since 7.1 one that all folios of a zone and size share"
        " (zone->vmemmap_tails). One that maps another shows struct pages of another folio, or what"
        " somebody else keeps there: compound_head() leads astray.",
        look_at="Whose frame it is: that of another folio (a wrong remapping), or one that was"
        " freed and is in use again. On a kernel that was patched to share tail pages, whether the"
        " zone's are those of another order.",
    ),
    Rule(
        "hugetlb-head-frame",
        Severity.ERROR,
        "the frame of an optimized folio's head page is its own, and in use",
        "mm/hugetlb_vmemmap.c: vmemmap_remap_free(), free_vmemmap_page_list()",
        since="5.14",
        scope=Scope.HUGETLB,
        meaning="The head page of an optimized folio has a frame with one reference, two if it is"
        " from boot. With none it was freed, and the next to get it overwrites the folio's struct"
        " page; mapped elsewhere too, two parts of the memory map overwrite each other.",
        look_at="What the frame is now, and who else maps it. A count that is one too high for a"
        " moment is a page walker's.",
    ),
    Rule(
        "hugetlb-read-only",
        Severity.ERROR,
        "read-only vmemmap belongs to an optimized HugeTLB folio",
        "mm/hugetlb_vmemmap.c: vmemmap_remap_pte()",
        scope=Scope.HUGETLB,
        meaning="Only HugeTLB's optimization makes vmemmap read-only. Where no HugeTLB folio is,"
        " the pages are somebody's who will write to them (prep_new_page() at the latest), which is"
        " an oops; and the frames that were saved there are never allocated again.",
        look_at="The first struct pages that are described there: a HugeTLB folio that lost its"
        " mark, or that is being set up or taken down; or a page of the buddy allocator, which got"
        " the folio with its vmemmap still optimized.",
    ),
    Rule(
        "hugetlb-key",
        Severity.WARNING,
        "the static key counts the folios that are optimized",
        "mm/hugetlb_vmemmap.c: static_branch_inc(&hugetlb_optimize_vmemmap_key)",
        since="5.19",
        until="7.0",
        scope=Scope.HUGETLB,
        meaning="With the key at 0, compound_head() does not ask whether a page that looks like a"
        " head is a tail of an optimized folio (page_fixed_fake_head()): too low, tail pages are"
        " taken for heads one day; too high costs a test in a hot path for ever.",
        look_at="Whether folios are being optimized or restored at this very moment, and the error"
        " paths of both.",
    ),
    Rule(
        "hugetlb-shared-tail",
        Severity.ERROR,
        "the tail pages that all folios of a zone and order share are alike, find their heads by"
        " the right mask, and are in a frame that is in use",
        "mm/hugetlb_vmemmap.c: vmemmap_get_tail()",
        since="7.1",
        scope=Scope.HUGETLB,
        meaning="All optimized folios of that size in the zone show these struct pages as their"
        " tails. Whatever was written there is wrong for all of them at once: every lookup of a"
        " tail page by its frame number goes to a wrong head, or a reference is counted where"
        " nobody looks for it.",
        look_at="Which of the struct pages differ: one was written to (nothing may, it is mapped"
        " read-only: so through the direct map); all are another's frame, or were initialised for"
        " another order. Tail pages of a gigantic page from boot (hugepages=1 with hugepagesz=1G)"
        " with a reference count of 1 each and lists of their own were initialised a second time:"
        " 7.2.13 does so, and when the page is freed, the log has 'BUG: Bad page state ... nonzero"
        " _refcount', and all of it is lost.",
    ),
)

CATALOGUE = {rule.id: rule for rule in _RULES}


def rules_of(scope: Scope) -> tuple[Rule, ...]:
    """Get the rules that are evaluated for something, in the catalogue's order."""
    return tuple(rule for rule in _RULES if scope in rule.scope)
