/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of the files at depth 12: with /tmp/FOLDER before it and a name behind. */
#define DEEP "a/b/c/d/e/f/g/h/i"
