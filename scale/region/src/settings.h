/*
 * settings.h
 *		Settings of this extension, and those of ratelimit that count here as well.
 */
#ifndef REGION_SETTINGS_H
#define REGION_SETTINGS_H

extern int	max_leases_setting;
extern char *server_name_setting;
extern int	timeout_setting;	/* milliseconds */
extern int	span_setting;		/* milliseconds */
extern int	idle_setting;		/* milliseconds */
extern int	term_setting;		/* milliseconds */

typedef enum OnError
{
	ON_ERROR_ERROR,
	ON_ERROR_ALLOW,
	ON_ERROR_DENY
} OnError;

extern void settings_define(void);
extern const char *server_name(void);
extern bool setting_enabled(void);
extern bool setting_shadow(void);
extern OnError setting_on_error(void);

#endif							/* REGION_SETTINGS_H */
