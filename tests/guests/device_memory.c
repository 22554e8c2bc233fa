// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Ask the kernel for memory that it can't reach itself, as drivers of graphics cards do
 * (MEMORY_DEVICE_PRIVATE), and for memory of a device that it can (MEMORY_DEVICE_COHERENT).
 * There is none: nobody reads or writes it, but its memory map is the kernel's.
 *
 *	insmod device_memory.ko private=0x10000000 coherent=0x10000000 at=0x4000000000
 */
#include <linux/err.h>
#include <linux/ioport.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/version.h>

static unsigned long private, coherent, at;
module_param(private, ulong, 0444);
module_param(coherent, ulong, 0444);
module_param(at, ulong, 0444);

static vm_fault_t migrate_to_ram(struct vm_fault *fault)
{
	return VM_FAULT_SIGBUS;
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 19, 0)
static void page_free(struct page *page)
{
}
#else
static void folio_free(struct folio *folio)
{
}
#endif

static const struct dev_pagemap_ops ops = {
	.migrate_to_ram = migrate_to_ram,
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 19, 0)
	.page_free = page_free,
#else
	.folio_free = folio_free,
#endif
};

static struct dev_pagemap pagemaps[2];

static int add(struct dev_pagemap *pagemap, enum memory_type type, struct resource *resource)
{
	if (IS_ERR_OR_NULL(resource))
		return resource ? PTR_ERR(resource) : -EBUSY;
	pagemap->type = type;
	pagemap->range = (struct range) { .start = resource->start, .end = resource->end };
	pagemap->nr_range = 1;
	pagemap->ops = &ops;
	pagemap->owner = THIS_MODULE;
	return PTR_ERR_OR_ZERO(memremap_pages(pagemap, 0));
}

static int __init device_memory_init(void)
{
	int status = 0;

	/* What was added stays until the guest ends, whatever comes after it. */
	__module_get(THIS_MODULE);
	if (private)
		status = add(&pagemaps[0], MEMORY_DEVICE_PRIVATE,
			     request_free_mem_region(&iomem_resource, private, "private memory"));
	if (!status && coherent)
		status = add(&pagemaps[1], MEMORY_DEVICE_COHERENT,
			     request_mem_region(at, coherent, "coherent memory"));
	return status;
}

module_init(device_memory_init);
MODULE_DESCRIPTION("device-private and device-coherent memory");
MODULE_LICENSE("GPL");
