// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Make a dax region of physical memory that is not System RAM, as dax_hmem does on
 * x86-64. For kernels that have device_dax but neither NVDIMMs nor dax_hmem.
 *
 *	insmod dax_region.ko start=0x40000000 size=0x20000000 align=0x200000
 *
 * Each parameter may be a list; the regions are numbered in its order.
 */
#include <linux/err.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/range.h>

#define MAX_REGIONS 8

/* What dax.ko exports and what it takes, which no header of the kernel's package has. */
struct dax_region;
struct dev_dax;
struct dev_dax_data {
	struct dax_region *dax_region;
	struct dev_pagemap *pgmap;
	resource_size_t size;
	int id;
	bool memmap_on_memory;
};
struct dax_region *alloc_dax_region(struct device *parent, int region_id, struct range *range,
				    int target_node, unsigned int align, unsigned long flags);
struct dev_dax *devm_create_dev_dax(struct dev_dax_data *data);

static unsigned long start[MAX_REGIONS], size[MAX_REGIONS];
static unsigned int align[MAX_REGIONS];
static int starts, sizes, aligns;
module_param_array(start, ulong, &starts, 0444);
module_param_array(size, ulong, &sizes, 0444);
module_param_array(align, uint, &aligns, 0444);

static struct platform_device *devices[MAX_REGIONS];

static int dax_region_probe(struct platform_device *device)
{
	int i = device->id;
	struct range range = { .start = start[i], .end = start[i] + size[i] - 1 };
	struct dev_dax_data data = { .id = -1, .size = size[i] };

	data.dax_region = alloc_dax_region(&device->dev, i, &range, 0, align[i], 0);
	if (!data.dax_region)
		return -ENOMEM;
	return PTR_ERR_OR_ZERO(devm_create_dev_dax(&data));
}

static struct platform_driver driver = {
	.probe = dax_region_probe,
	.driver = { .name = "vmemscope-dax-region" },
};

static int __init dax_region_init(void)
{
	int i, status;

	if (starts != sizes || starts != aligns)
		return -EINVAL;
	status = platform_driver_register(&driver);
	for (i = 0; !status && i < starts; i++)
		devices[i] = platform_device_register_simple(driver.driver.name, i, NULL, 0);
	return status;
}

static void __exit dax_region_exit(void)
{
	int i;

	for (i = 0; i < starts; i++)
		if (!IS_ERR_OR_NULL(devices[i]))
			platform_device_unregister(devices[i]);
	platform_driver_unregister(&driver);
}

module_init(dax_region_init);
module_exit(dax_region_exit);
MODULE_DESCRIPTION("dax regions of memory that is not System RAM");
MODULE_LICENSE("GPL");
