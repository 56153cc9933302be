;;; talaria-lsp.el --- Talaria as a server of lsp-mode -*- lexical-binding: t; -*-

;; SPDX-License-Identifier: Apache-2.0

;;; Commentary:

;; Registers Talaria's server with lsp-mode, beside the other servers of a language:
;;
;;   (require 'talaria-lsp)
;;   (add-hook 'python-base-mode-hook #'lsp-deferred)
;;
;; lsp-mode 10 can show grey text itself.  It does so two seconds after a key, takes it away with
;; the next one, and takes C-n and C-p; whoever wants that sets `talaria-lsp-native'.

;;; Code:

(require 'talaria)
(require 'lsp-mode)

(defvar lsp-inline-completion-enable)
(declare-function lsp-inline-completion-mode "lsp-inline-completion" (&optional arg))

(defcustom talaria-lsp-native nil
  "Whether `lsp-inline-completion-mode' shows the grey text, in its way."
  :type 'boolean
  :group 'talaria)

(defcustom talaria-lsp-modes '(python-base-mode)
  "Major modes, and those derived from them, that get the server."
  :type '(repeat function)
  :group 'talaria)

(cl-defmethod talaria-server ((_client (eql lsp)))
  "Return the workspace of Talaria that this buffer belongs to.
There is none before it has begun, or while nobody tells it what is typed."
  (and lsp-managed-mode
       (seq-find (lambda (workspace)
                   (and (eq (lsp--client-server-id (lsp--workspace-client workspace)) 'talaria)
                        (eq (lsp--workspace-status workspace) 'initialized)))
                 lsp--buffer-workspaces)))

(cl-defmethod talaria-place ((_client (eql lsp)) position)
  "Return where POSITION is, as lsp-mode counts."
  (list :uri (lsp--buffer-uri) :position (lsp--point-to-position position)))

(cl-defmethod talaria-send ((_client (eql lsp)) method params &optional then)
  "Send METHOD with PARAMS to Talaria's workspace alone; call THEN with the result."
  (when-let* ((workspace (talaria-server 'lsp)))
    (with-lsp-workspace workspace
      (if then
          (lsp-request-async method params then :mode 'detached
                             :error-handler
                             (lambda (problem)
                               (talaria-failed
                                (talaria--field problem "code")
                                (talaria--field problem "message"))))
        (lsp-notify method params)))))

(defun talaria-lsp--heard (workspace params)
  "Take over the state of WORKSPACE from PARAMS."
  (talaria-heard workspace (talaria--field params "state") (talaria--field params "message")))

(defun talaria-lsp--configure ()
  "Show grey text in a buffer that belongs to a workspace of Talaria's, once."
  (talaria-attend 'lsp talaria-lsp-native)
  (when talaria-ghost-mode
    (setq-local lsp-inline-completion-enable nil)
    (when (bound-and-true-p lsp-inline-completion-mode)
      (lsp-inline-completion-mode -1))))

(add-hook 'lsp-configure-hook #'talaria-lsp--configure 90)
(add-hook 'lsp-unconfigure-hook #'talaria-lsp--configure)

(lsp-register-client
 (make-lsp-client
  :server-id 'talaria
  :new-connection (lsp-stdio-connection #'talaria-find-command
                                        (lambda () (and (talaria-find-command) t)))
  :activation-fn (lambda (_file mode) (apply #'provided-mode-derived-p mode talaria-lsp-modes))
  :add-on? t
  :priority -2
  :initialization-options #'talaria-initialization-options
  :action-handlers (lsp-ht ("talaria.fillFunction" #'talaria-act)
                           ("talaria.fillHere" #'talaria-act)
                           ("talaria.rewrite" #'talaria-act))
  :notification-handlers (lsp-ht ("talaria/status" #'talaria-lsp--heard))))

(provide 'talaria-lsp)

;; Emacs compiles all of a package, also where lsp-mode is not, and would show an error then.
;; Local Variables:
;; no-byte-compile: t
;; End:
;;; talaria-lsp.el ends here
